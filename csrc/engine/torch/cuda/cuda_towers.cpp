#include "engine/torch/cuda/cuda_towers.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/constant_pad_nd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>
#include <vector>

#include "engine/torch/cuda/cuda_runs.hpp"
#include "engine/torch/cuda/cuda_transformer.hpp"
#include "engine/torch/torch_guard.hpp"

namespace cnclip_cuda {

namespace {

enum {
  RUNS = 2,         /* at a time: while one computes, another uploads */
  MAX_IMAGES = 512, /* of one run */
  MAX_TEXTS = 4096,
  MAX_ITEMS = 4096, /* the larger of both */
  MAX_GRAPH_IMAGES = 16,
  MAX_GRAPH_ROWS = 512, /* of texts */
  UPLOAD_PIECE = 32, /* images that are copied to pinned memory while the previous are uploaded */
  PATCH_THREADS = 128,
};

/* Rounds up to a power of two: runs of many sizes share a few graphs. */
template <typename Integer>
Integer power_of_two(Integer value) {
  return static_cast<Integer>(std::bit_ceil(static_cast<unsigned long>(value)));
}

template <typename Integer>
Integer round_up(Integer value, Integer unit) {
  return (value + unit - 1) / unit * unit;
}

/* --- Reading a module ------------------------------------------------------------------------- */

/* Tensors of a module in the forms that the kernels read; keeps them. */
class Weights {
 public:
  Weights(c10::Device device, bool is_fp16)
      : device_(device), half_(is_fp16 ? at::kHalf : at::kBFloat16) {}

  /* The submodule or tensor at a path such as `mlp.c_fc.weight`. */
  static c10::IValue at_path(const torch::jit::Module &module, std::string path) {
    c10::IValue value = module._ivalue();
    while (!path.empty()) {
      const std::size_t dot = path.find('.');
      value = value.toModule().attr(path.substr(0, dot));
      path = dot == std::string::npos ? "" : path.substr(dot + 1);
    }
    return value;
  }

  static torch::jit::Module module_at(const torch::jit::Module &module, const char *path) {
    return at_path(module, path).toModule();
  }

  static at::Tensor tensor_at(const torch::jit::Module &module, const std::string &path) {
    return at_path(module, path).toTensor();
  }

  DevicePointer keep(const at::Tensor &tensor) {
    kept_.push_back(tensor.to(device_).contiguous());
    return reinterpret_cast<DevicePointer>(kept_.back().data_ptr());
  }

  DevicePointer halves(const at::Tensor &tensor) { return keep(tensor.to(half_)); }

  DevicePointer floats(const torch::jit::Module &module, const std::string &path) {
    return keep(tensor_at(module, path).to(at::kFloat));
  }

  Linear linear(const at::Tensor &weight, const at::Tensor &bias) {
    return {halves(weight), bias.defined() ? halves(bias) : 0, static_cast<int>(weight.size(1)),
            static_cast<int>(weight.size(0))};
  }

  Linear linear(const torch::jit::Module &module, const std::string &path) {
    return linear(tensor_at(module, path + ".weight"), tensor_at(module, path + ".bias"));
  }

  Norm norm(const torch::jit::Module &module, const std::string &path, double epsilon) {
    return {floats(module, path + ".weight"), floats(module, path + ".bias"),
            static_cast<float>(epsilon)};
  }

 private:
  c10::Device device_;
  at::ScalarType half_;
  std::vector<at::Tensor> kept_;
};

Layer vision_layer(Weights *weights, const torch::jit::Module &block) {
  constexpr double epsilon = 1e-5;
  return {weights->linear(Weights::tensor_at(block, "attn.in_proj_weight"),
                          Weights::tensor_at(block, "attn.in_proj_bias")),
          weights->linear(block, "attn.out_proj"),
          weights->linear(block, "mlp.c_fc"),
          weights->linear(block, "mlp.c_proj"),
          weights->norm(block, "ln_1", epsilon),
          weights->norm(block, "ln_2", epsilon)};
}

Layer text_layer(Weights *weights, const torch::jit::Module &layer) {
  const double epsilon = layer.attr("epsilon").toDouble();
  /* `prepare` has put all three projections into the query's tensors. */
  return {weights->linear(layer, "attention.self.query"),
          weights->linear(layer, "attention.output.dense"),
          weights->linear(layer, "intermediate.dense"),
          weights->linear(layer, "output.dense"),
          weights->norm(layer, "attention.output.LayerNorm", epsilon),
          weights->norm(layer, "output.LayerNorm", epsilon)};
}

std::vector<torch::jit::Module> children_of(const torch::jit::Module &list) {
  std::vector<torch::jit::Module> children;
  for (const torch::jit::Module &child : list.children()) children.push_back(child);
  return children;
}

/* Whether the kernels can compute these layers. */
bool has_kernels(int width, int heads, int inner) {
  return width % 8 == 0 && width <= 2048 && inner % 8 == 0 && heads > 0 && width % heads == 0 &&
         width / heads % 16 == 0 && width / heads <= 128;
}

bool is_half(const std::string &precision) {
  return precision == "bf16" || precision == "fp16";
}

/* --- Memory ----------------------------------------------------------------------------------- */

/* Divides memory into consecutive pieces, at multiples of 256 bytes from its start. */
class Arena {
 public:
  explicit Arena(DevicePointer start) : next_(start) {}
  DevicePointer take(std::size_t bytes) {
    const DevicePointer piece = next_;
    next_ += round_up<std::size_t>(bytes, 256);
    return piece;
  }
  DevicePointer next() const { return next_; }

 private:
  DevicePointer next_;
};

struct Sizes {
  long rows, items;
  std::size_t input_bytes;
  long wide_values; /* of Memory.wide, at least rows * the transformer's widest */
  int width, embed_dim;
};

Memory place(Arena *arena, const Sizes &sizes) {
  /* One more row: an empty item at the end has its first row there, which is read and ignored. */
  const std::size_t rows = static_cast<std::size_t>(sizes.rows + 1) * sizes.width * 2,
                    items = static_cast<std::size_t>(sizes.items) * sizes.width * 2;
  Memory memory{};
  memory.input = arena->take(sizes.input_bytes);
  memory.x = arena->take(rows);
  memory.hidden = arena->take(rows);
  memory.mixed = arena->take(rows);
  memory.wide = arena->take(static_cast<std::size_t>(sizes.wide_values) * 2);
  memory.first_x = arena->take(items);
  memory.first_hidden = arena->take(items);
  memory.first_mixed = arena->take(items);
  memory.embeddings =
      arena->take(static_cast<std::size_t>(sizes.items) * sizes.embed_dim * sizeof(float));
  return memory;
}

Memory reserve(Run *run, const Sizes &sizes) {
  Arena measure(0);
  place(&measure, sizes);
  run->reserve(measure.next(), sizes.input_bytes,
               static_cast<std::size_t>(sizes.items) * sizes.embed_dim * sizeof(float));
  Arena arena(run->memory());
  return place(&arena, sizes);
}

/* --- The towers ------------------------------------------------------------------------------- */

/* The parts that both towers need. */
class Base {
 protected:
  Base(c10::Device device, bool is_fp16, int head_width, int width, int activation)
      : context_(context_of(device.index())),
        runs_(RUNS, [device, is_fp16] { return std::make_unique<Run>(device, is_fp16); }),
        weights_(device, is_fp16),
        plain_(device.index(), is_fp16, CNCLIP_ACTIVATION_NONE),
        activated_(device.index(), is_fp16, activation) {
    transformer_.width = width;
    transformer_.activation = activation;
    const CurrentContext current(context_);
    kernels_.emplace(device.index(), is_fp16, head_width, width);
    numbers_ = weights_.keep(at::arange(MAX_ITEMS + 1, at::kInt));
  }

  ~Base() {
    try {
      const CurrentContext current(context_);
      runs_.clear();
    } catch (const std::exception &) {
      runs_.abandon(); /* at the end of the process, or in a forked one: the driver is not there */
    }
  }

  /* The projection of first_x to rows of unit length, downloaded. */
  void project(Run *run, const Memory &memory, DevicePointer input, long items) {
    const Gpu gpu = gpu_of(run);
    run->products().run({.rows = items,
                         .inputs = projection_.inputs,
                         .outputs = projection_.outputs,
                         .has_bias = false,
                         .adds = false,
                         .to_float = true},
                        input, projection_.weight, 0, memory.embeddings);
    launch(gpu.stream, kernels_->unit_rows, row_grid(items), ROW_THREADS, 0, memory.embeddings,
           items, projection_.outputs);
    CNCLIP_CUDA(cuMemcpyDtoHAsync_v2, run->output(), memory.embeddings,
                static_cast<std::size_t>(items) * projection_.outputs * sizeof(float), gpu.stream);
  }

  Gpu gpu_of(Run *run) {
    return {run->stream(), &run->products(), &*kernels_, &plain_, &activated_};
  }

  /* Waits for the run and copies the first `items` embeddings. */
  void finish(Run *run, std::size_t items, float *embeddings) {
    run->wait();
    std::memcpy(embeddings, run->output(), items * projection_.outputs * sizeof(float));
  }

  /* Calls encode(first, count) for all items, with at most `most` at once and fewer where memory is
   * short. */
  template <typename Encode>
  void in_parts(std::size_t total, std::size_t most, Encode encode) {
    const CurrentContext current(context_);
    std::size_t at_once = std::min(total, most);
    for (std::size_t first = 0; first < total;) {
      const std::size_t count = std::min(at_once, total - first);
      try {
        encode(first, count);
      } catch (const c10::OutOfMemoryError &) {
        if (count == 1) throw;
        at_once = (count + 1) / 2;
        continue;
      } catch (const std::bad_alloc &) { /* pinned memory, or the driver */
        if (count == 1) throw;
        at_once = (count + 1) / 2;
        continue;
      }
      first += count;
    }
  }

  Context context_;
  Runs runs_;
  Weights weights_;
  std::optional<Kernels> kernels_;
  HopperLinear plain_, activated_;
  Transformer transformer_{};
  Linear projection_{};       /* no bias */
  DevicePointer numbers_ = 0; /* int32 [MAX_ITEMS + 1]: 0, 1, 2, ... */
};

class VisionTower final : public ImageTower, private Base {
 public:
  VisionTower(const torch::jit::Module &visual, c10::Device device, bool is_fp16, int heads,
              int width, const at::Tensor &normalized)
      : Base(device, is_fp16, width / heads, width, CNCLIP_ACTIVATION_QUICK_GELU) {
    patch_size_ = static_cast<int>(visual.attr("patch_size").toInt());
    const at::Tensor patches = Weights::tensor_at(visual, "conv1.weight");
    patch_columns_ = round_up<int>(static_cast<int>(patches.size(1)), 8);
    embedding_ = weights_.linear(
        at::constant_pad_nd(patches, {0, patch_columns_ - patches.size(1)}), at::Tensor());
    class_row_ = weights_.floats(visual, "class_embedding");
    positions_ = weights_.floats(visual, "positional_embedding");
    rows_ = static_cast<int>(Weights::tensor_at(visual, "positional_embedding").size(0));
    before_ = weights_.norm(visual, "ln_pre", 1e-5);
    after_ = weights_.norm(visual, "ln_post", 1e-5);
    for (const auto &block : children_of(Weights::module_at(visual, "transformer.resblocks"))) {
      transformer_.layers.push_back(vision_layer(&weights_, block));
    }
    transformer_.heads = heads;
    transformer_.norm_first = true;
    projection_ = weights_.linear(Weights::tensor_at(visual, "proj").t(), at::Tensor());
    starts_ = weights_.keep(at::arange(MAX_ITEMS + 1, at::kInt) * rows_);
    if (normalized.defined()) normalized_ = weights_.keep(normalized);
    wait_for_torch(device);
  }

  std::size_t embed_dim() const override { return static_cast<std::size_t>(projection_.outputs); }

  void encode(const cnclip_pixels &pixels, float *embeddings) override {
    const std::size_t side = pixels.resolution, grid = side / patch_size_;
    TORCH_CHECK(grid * grid + 1 == static_cast<std::size_t>(rows_), "the model does not take ",
                side, " x ", side, " pixels");
    TORCH_CHECK(pixels.bytes == nullptr || normalized_ != 0,
                "the model was loaded without normalized values");
    in_parts(pixels.count, MAX_IMAGES, [&](std::size_t first, std::size_t count) {
      const std::size_t bytes = image_bytes(pixels);
      const char *source = pixels.bytes != nullptr ? reinterpret_cast<const char *>(pixels.bytes)
                                                   : reinterpret_cast<const char *>(pixels.floats);
      encode_part(source + first * bytes, pixels, count,
                  embeddings + first * static_cast<std::size_t>(projection_.outputs));
    });
  }

 private:
  static std::size_t image_bytes(const cnclip_pixels &pixels) {
    return pixels.resolution * pixels.resolution *
           (pixels.bytes != nullptr ? 4 : 3 * sizeof(float));
  }

  void encode_part(const char *source, const cnclip_pixels &pixels, std::size_t count,
                   float *embeddings) {
    const bool is_small = count <= MAX_GRAPH_IMAGES;
    const long images = static_cast<long>(is_small ? power_of_two(count) : count);
    const std::size_t bytes = image_bytes(pixels);
    const long rows = images * rows_;
    const Runs::Lease run(&runs_);
    const Memory memory =
        reserve(&*run, {.rows = rows,
                        .items = images,
                        .input_bytes = static_cast<std::size_t>(images) * bytes,
                        .wide_values = rows * std::max(transformer_.widest(), patch_columns_),
                        .width = transformer_.width,
                        .embed_dim = projection_.outputs});
    if (is_small) {
      std::memcpy(run->input(), source, count * bytes);
      const auto side = static_cast<long>(pixels.resolution);
      run->repeat({images, pixels.bytes != nullptr, side, 0}, [&] {
        CNCLIP_CUDA(cuMemcpyHtoDAsync_v2, memory.input, run->input(),
                    static_cast<std::size_t>(images) * bytes, run->stream());
        compute(&*run, memory, images, pixels);
      });
    } else {
      for (std::size_t first = 0; first < count; first += UPLOAD_PIECE) {
        const std::size_t piece = std::min<std::size_t>(UPLOAD_PIECE, count - first) * bytes;
        char *staged = static_cast<char *>(run->input()) + first * bytes;
        std::memcpy(staged, source + first * bytes, piece);
        CNCLIP_CUDA(cuMemcpyHtoDAsync_v2, memory.input + first * bytes, staged, piece,
                    run->stream());
      }
      compute(&*run, memory, images, pixels);
    }
    finish(&*run, count, embeddings);
  }

  void compute(Run *run, const Memory &memory, long images, const cnclip_pixels &pixels) {
    const Gpu gpu = gpu_of(run);
    const int side = static_cast<int>(pixels.resolution);
    const long patches = images * (rows_ - 1), rows = images * rows_;
    const Grid patch_grid{static_cast<unsigned>(patches)};
    if (pixels.bytes != nullptr) {
      launch(gpu.stream, kernels_->patches_of_bytes, patch_grid, PATCH_THREADS, 0, memory.input,
             normalized_, side, patch_size_, patch_columns_, memory.wide);
    } else {
      launch(gpu.stream, kernels_->patches_of_floats, patch_grid, PATCH_THREADS, 0, memory.input,
             side, patch_size_, patch_columns_, memory.wide);
    }
    multiply(gpu, embedding_, memory.wide, patches, false, memory.mixed);
    launch(gpu.stream, kernels_->embed_patches, row_grid(rows), ROW_THREADS, 0, memory.mixed,
           class_row_, positions_, rows, rows_, before_.weight, before_.bias, before_.epsilon,
           memory.x);
    transformer_.run(gpu,
                     {.count = static_cast<int>(images),
                      .longest = rows_,
                      .rows = rows,
                      .starts = starts_,
                      .numbers = numbers_},
                     memory);
    normalize(gpu, after_, memory.first_x, images, memory.first_hidden);
    project(run, memory, memory.first_hidden, images);
  }

  int patch_size_, patch_columns_; /* values of a patch's row, with padding */
  int rows_;                       /* of an image */
  Linear embedding_{};
  DevicePointer class_row_ = 0, positions_ = 0, starts_ = 0, normalized_ = 0;
  Norm before_{}, after_{};
};

class BertTower final : public TextTower, private Base {
 public:
  BertTower(const torch::jit::Module &module, c10::Device device, bool is_fp16, int heads,
            int width, int activation)
      : Base(device, is_fp16, width / heads, width, activation) {
    const torch::jit::Module bert = Weights::module_at(module, "bert");
    const torch::jit::Module embeddings = Weights::module_at(bert, "embeddings");
    words_ = table(embeddings, "word_embeddings.weight");
    positions_ = table(embeddings, "position_embeddings.weight");
    segment_ = weights_.keep(
        Weights::tensor_at(embeddings, "token_type_embeddings.weight").select(0, 0).to(at::kFloat));
    embedding_norm_ = weights_.norm(embeddings, "LayerNorm", bert.attr("epsilon").toDouble());
    for (const auto &layer : children_of(Weights::module_at(bert, "encoder.layer"))) {
      transformer_.layers.push_back(text_layer(&weights_, layer));
    }
    transformer_.heads = heads;
    transformer_.norm_first = false;
    projection_ = weights_.linear(Weights::tensor_at(module, "text_projection").t(), at::Tensor());
    pad_id_ = module.attr("pad_id").toInt();
    wait_for_torch(device);
  }

  std::size_t embed_dim() const override { return static_cast<std::size_t>(projection_.outputs); }

  void encode(const std::int64_t *ids, std::size_t count, std::size_t length,
              float *embeddings) override {
    TORCH_CHECK(length <= static_cast<std::size_t>(positions_.rows), "a text of ", length,
                " ids, and the model has ", positions_.rows, " positions");
    in_parts(count, MAX_TEXTS, [&](std::size_t first, std::size_t some) {
      encode_part(pack(ids + first * length, some, length),
                  embeddings + first * static_cast<std::size_t>(projection_.outputs));
    });
  }

 private:
  struct Table {
    DevicePointer values; /* float32 or float16 [rows, width] */
    int is_f16;
    std::int64_t rows;
  };

  /* The ids of texts without padding, and their places in the texts. */
  struct Packed {
    std::vector<int> ids, places; /* [rows] */
    std::vector<int> starts;      /* [texts + 1] */
    int longest = 0;
  };

  Table table(const torch::jit::Module &embeddings, const char *path) {
    at::Tensor values = Weights::tensor_at(embeddings, path);
    if (values.scalar_type() != at::kHalf) values = values.to(at::kFloat);
    return {weights_.keep(values), values.scalar_type() == at::kHalf, values.size(0)};
  }

  Packed pack(const std::int64_t *ids, std::size_t count, std::size_t length) const {
    Packed packed;
    packed.starts.push_back(0);
    for (std::size_t text = 0; text < count; text++) {
      const std::int64_t *row = ids + text * length;
      for (std::size_t place = 0; place < length; place++) {
        if (place > 0 && row[place] == pad_id_) continue; /* the first column always counts */
        TORCH_CHECK(row[place] >= 0 && row[place] < words_.rows, "id ", row[place],
                    " is not in the vocabulary of ", words_.rows);
        packed.ids.push_back(static_cast<int>(row[place]));
        packed.places.push_back(static_cast<int>(place));
      }
      packed.longest =
          std::max(packed.longest, static_cast<int>(packed.ids.size()) - packed.starts.back());
      packed.starts.push_back(static_cast<int>(packed.ids.size()));
    }
    return packed;
  }

  void encode_part(Packed packed, float *embeddings) {
    const std::size_t count = packed.starts.size() - 1;
    const bool is_small = packed.ids.size() <= MAX_GRAPH_ROWS;
    /* Rows that belong to no text, and texts without rows, fill up the sizes. */
    const std::size_t rows = is_small ? power_of_two(std::max<std::size_t>(packed.ids.size(), 32))
                                      : round_up<std::size_t>(packed.ids.size(), 64);
    const std::size_t texts = is_small ? power_of_two(count) : count;
    const int longest = power_of_two(std::max(packed.longest, 16));
    packed.ids.resize(rows, 0);
    packed.places.resize(rows, 0);
    packed.starts.resize(texts + 1, packed.starts.back());

    const Runs::Lease run(&runs_);
    const std::size_t integers = 2 * rows + texts + 1;
    const Memory memory =
        reserve(&*run, {.rows = static_cast<long>(rows),
                        .items = static_cast<long>(texts),
                        .input_bytes = integers * sizeof(int),
                        .wide_values = static_cast<long>(rows) * transformer_.widest(),
                        .width = transformer_.width,
                        .embed_dim = projection_.outputs});
    auto *staged = static_cast<int *>(run->input());
    std::ranges::copy(packed.ids, staged);
    std::ranges::copy(packed.places, staged + rows);
    std::ranges::copy(packed.starts, staged + 2 * rows);
    const auto queue = [&] {
      CNCLIP_CUDA(cuMemcpyHtoDAsync_v2, memory.input, run->input(), integers * sizeof(int),
                  run->stream());
      compute(&*run, memory, static_cast<long>(rows), static_cast<int>(texts), longest);
    };
    if (is_small) {
      run->repeat({static_cast<long>(rows), static_cast<long>(texts), longest, 0}, queue);
    } else {
      queue();
    }
    finish(&*run, count, embeddings);
  }

  void compute(Run *run, const Memory &memory, long rows, int texts, int longest) {
    const Gpu gpu = gpu_of(run);
    const auto bytes = static_cast<DevicePointer>(rows) * sizeof(int);
    launch(gpu.stream, kernels_->embed_words, row_grid(rows), ROW_THREADS, 0, memory.input,
           memory.input + bytes, words_.values, words_.is_f16, positions_.values, positions_.is_f16,
           segment_, rows, embedding_norm_.weight, embedding_norm_.bias, embedding_norm_.epsilon,
           memory.x);
    transformer_.run(gpu,
                     {.count = texts,
                      .longest = longest,
                      .rows = rows,
                      .starts = memory.input + 2 * bytes,
                      .numbers = numbers_},
                     memory);
    project(run, memory, memory.first_x, texts);
  }

  Table words_{}, positions_{};
  DevicePointer segment_ = 0;
  Norm embedding_norm_{};
  std::int64_t pad_id_ = 0;
};

/* NULL: there are no kernels for this tower. std::runtime_error: there are none for this GPU, or a
 * library is missing. */
std::unique_ptr<ImageTower> new_image_tower(const torch::jit::Module &module, c10::Device device,
                                            const std::string &precision,
                                            const at::Tensor &normalized) {
  const torch::jit::Module visual = Weights::module_at(module, "visual");
  if (!is_half(precision) || !visual.hasattr("patch_size")) return nullptr; /* a ResNet */
  const auto blocks = children_of(Weights::module_at(visual, "transformer.resblocks"));
  const auto width = static_cast<int>(visual.attr("width").toInt());
  if (blocks.empty()) return nullptr;
  const auto heads = static_cast<int>(blocks.front().attr("heads").toInt());
  if (!has_kernels(width, heads, 4 * width)) return nullptr;
  return std::make_unique<VisionTower>(visual, device, precision == "fp16", heads, width,
                                       normalized);
}

std::unique_ptr<TextTower> new_text_tower(const torch::jit::Module &module, c10::Device device,
                                          const std::string &precision) {
  if (!is_half(precision)) return nullptr;
  const auto layers = children_of(Weights::module_at(module, "bert.encoder.layer"));
  if (layers.empty()) return nullptr;
  const auto width = static_cast<int>(layers.front().attr("width").toInt()),
             heads = static_cast<int>(layers.front().attr("heads").toInt()),
             inner = static_cast<int>(layers.front().attr("inner").toInt());
  if (!has_kernels(width, heads, inner)) return nullptr;
  const int activation =
      cnclip_torch::activation_of(layers.front().attr("activation").toStringRef());
  return std::make_unique<BertTower>(module, device, precision == "fp16", heads, width, activation);
}

}  // namespace

Towers open_towers(const torch::jit::Module &module, c10::Device device,
                   const std::string &precision, const at::Tensor &normalized) {
  Towers towers;
  try {
    towers.image_tower = new_image_tower(module, device, precision, normalized);
    towers.text_tower = new_text_tower(module, device, precision);
  } catch (const c10::OutOfMemoryError &) {
    throw;
  } catch (const std::exception &error) {
    TORCH_WARN("cnclip runs by torch's kernels, since its own cannot be used: ", error.what());
  }
  return towers;
}

}  // namespace cnclip_cuda
