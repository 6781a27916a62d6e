/* The engine that runs TorchScript archives by libtorch. */

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/stack.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/version.h>

#include <climits>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "engine/torch/cuda/cuda_runs.hpp"
#include "engine/torch/cuda/cuda_towers.hpp"
#include "engine/torch/torch_guard.hpp"
#include "engine/torch/torch_prepared.hpp"

using namespace cnclip_torch;

struct cnclip_model {
  torch::jit::Module module;
  c10::Device device;
  cnclip_isa isa; /* of the kernels that its operators use */
  int num_threads;
  bool spares_busy_cores;
  bool has_pointwise = false; /* convolutions of 1 x 1 */
  size_t text_weights = 0;    /* of the layers, for each token; 0: unknown */
  at::Tensor normalized;      /* float32 [3, 256] on the device: cnclip_model_options.normalized */
  std::optional<torch::jit::Method> encode_image, encode_text;
  cnclip_cuda::Towers towers;                    /* in place of the methods */
  std::unique_ptr<cnclip_cuda::Resizer> resizer; /* NULL: not for `resize` */

  cnclip_model(torch::jit::Module loaded, c10::Device where, const cnclip_model_options &options)
      : module(std::move(loaded)),
        device(where),
        isa(options.isa),
        num_threads(options.num_threads),
        spares_busy_cores(options.spares_busy_cores && where.is_cpu()) {}
};

namespace {

/* The profiling executor would spend the first runs on each new shape recording and recompiling. */
void choose_executor_once() {
  static std::once_flag once;
  std::call_once(once, [] {
    torch::jit::getExecutorMode() = false;
    torch::jit::getProfilingMode() = false;
    /* Its passes take a tenth of a second per tower, and find nothing to optimize in graphs of a
     * few large operators. */
    torch::jit::setGraphExecutorOptimize(false);
  });
}

bool has_method(const torch::jit::Module &module, const char *name) {
  return module.find_method(name).has_value();
}

cnclip_status wrong_shape(size_t count, size_t width, cnclip_error *error) {
  return core->error_set(error, CNCLIP_ERROR_MODEL,
                         "the model returned a tensor of another shape or type than float32 "
                         "[%zu, %zu]",
                         count, width);
}

c10::IValue call_method(const torch::jit::Method &method, c10::IValue argument) {
  std::vector<c10::IValue> stack;
  stack.push_back(std::move(argument));
  return method(std::move(stack));
}

/* By a method of the module. input: on the model's device. */
cnclip_status run_method(const torch::jit::Method &method, at::Tensor input, size_t count,
                         size_t width, float *embeddings, cnclip_error *error) {
  const at::Tensor rows =
      call_method(method, std::move(input)).toTensor().to(at::kCPU).contiguous();
  if (rows.scalar_type() != at::kFloat || rows.dim() != 2 ||
      rows.size(0) != static_cast<int64_t>(count) || rows.size(1) != static_cast<int64_t>(width)) {
    return wrong_shape(count, width, error);
  }
  std::memcpy(embeddings, rows.const_data_ptr<float>(), count * width * sizeof(float));
  return CNCLIP_OK;
}

struct Work {
  /* Whether libraries that see one thread compute the same bits as those that see more. They are a
   * tenth faster than those that see more and get one. */
  bool is_equal_alone = true;
  /* Whether waking other threads takes longer than they save. */
  bool is_small = false;
};

/* `guarded_parallel` with the model's settings. */
cnclip_status with_settings(const cnclip_model *model, Work work, const char *doing,
                            cnclip_error *error, Body body) {
  return guarded_parallel(CNCLIP_ERROR_MODEL, doing, error, [&]() -> cnclip_status {
    const int limit = !model->spares_busy_cores ? INT_MAX : work.is_small ? 1 : core->cores_free();
    const c10::InferenceMode inference;
    const ThreadCount threads(limit == 1 && work.is_equal_alone ? 1 : model->num_threads,
                              model->spares_busy_cores);
    const IsaChoice kernels(model->isa);
    cnclip_status status = CNCLIP_OK;
    with_thread_limit(limit, [&] { status = guarded(CNCLIP_ERROR_MODEL, doing, error, body); });
    return status;
  });
}

/* Calls `body` with the model's settings. item: one of the batch. */
cnclip_status run(cnclip_model *model, Work work, size_t count, const char *item,
                  cnclip_error *error, Body body) {
  const cnclip_status status = check_not_forked(error);
  if (status != CNCLIP_OK) return status;
  char doing[80];
  std::snprintf(doing, sizeof doing, "running the model on a batch of %zu %s%s", count, item,
                count == 1 ? "" : "s");
  return with_settings(model, work, doing, error, body);
}

int device_count(const char *type);

cnclip_status choose_device(const char *name, std::optional<c10::Device> *ret_device,
                            cnclip_error *error) {
  return guarded(CNCLIP_ERROR_DEVICE, "choosing the device", error, [&]() -> cnclip_status {
    try {
      ret_device->emplace(std::string(name));
    } catch (const c10::Error &) { /* its message lists every device that torch knows */
      return core->error_set(error, CNCLIP_ERROR_DEVICE, "%s is not the name of a device", name);
    }
    if ((*ret_device)->is_cuda() && (*ret_device)->index() >= device_count("cuda")) {
      return core->error_set(error, CNCLIP_ERROR_DEVICE,
                             "no device %s: libtorch sees %d CUDA devices", name,
                             device_count("cuda"));
    }
    return CNCLIP_OK;
  });
}

/* Loads the archive and finds its methods. *ret_model is set even where one is missing. */
cnclip_status load_archive(const cnclip_model_options *options, c10::Device device,
                           cnclip_model **ret_model, cnclip_error *error) {
  const char *doing =
      options->is_prepared ? "reading the prepared model" : "reading the TorchScript archive";
  return guarded_parallel(CNCLIP_ERROR_ARCHIVE, doing, error, [&]() -> cnclip_status {
    choose_executor_once();
    const std::string path = options->path;
    torch::jit::Module module =
        options->is_prepared ? load_prepared(path) : torch::jit::load(path, device);
    auto *model = new cnclip_model(std::move(module), device, *options);
    *ret_model = model;
    if (options->normalized != nullptr) {
      model->normalized =
          at::from_blob(const_cast<float *>(options->normalized[0]), {3, 256}, at::kFloat)
              .to(device, at::kFloat, /*non_blocking=*/false, /*copy=*/true);
    }
    model->module.eval();
    for (const auto &[name, weight] : model->module.named_parameters()) {
      model->has_pointwise |= weight.dim() == 4 && weight.size(2) * weight.size(3) == 1;
      if (name.rfind("bert.encoder.", 0) == 0) model->text_weights += weight.numel();
    }
    for (const char *name : {"encode_image", "encode_text", "prepare"}) {
      const bool is_called = !options->is_prepared || std::strcmp(name, "prepare") != 0;
      if (is_called && !has_method(model->module, name)) {
        return core->error_set(error, CNCLIP_ERROR_ARCHIVE,
                               "the TorchScript archive has no method %s", name);
      }
    }
    model->encode_image.emplace(model->module.get_method("encode_image"));
    model->encode_text.emplace(model->module.get_method("encode_text"));
    return CNCLIP_OK;
  });
}

cnclip_status open_resizer(cnclip_model *model, cnclip_error *error) {
  const c10::Device device = model->device;
  return guarded(CNCLIP_ERROR_DEVICE, "preparing to resize on the GPU", error, [&] {
    model->resizer = std::make_unique<cnclip_cuda::Resizer>(device.index(), [device](size_t bytes) {
      return cnclip_cuda::allocate_by_torch(bytes, device);
    });
    return CNCLIP_OK;
  });
}

// The functions of the table.

cnclip_status start(const cnclip_engine_core *lent, cnclip_error *error) {
  core = lent;
  return guarded(CNCLIP_ERROR_ENGINE, "registering the operators", error, []() -> cnclip_status {
    static std::once_flag once;
    std::call_once(once, register_operators);
    return CNCLIP_OK;
  });
}

int device_count(const char *type) {
  try {
    if (std::strcmp(type, "cuda") != 0 || !at::hasCUDA()) return 0;
    return static_cast<int>(at::detail::getCUDAHooks().deviceCount());
  } catch (...) {
    return 0;
  }
}

void free_model(cnclip_model *model) {
  try {
    delete model;
  } catch (...) {
    /* There is no way to report an error of a destructor. */
  }
}

cnclip_status load(const cnclip_model_options *options, cnclip_model **ret_model,
                   cnclip_error *error) {
  cnclip_model *model = nullptr;
  std::optional<c10::Device> device;
  *ret_model = nullptr;
  cnclip_status status = check_not_forked(error);
  if (status == CNCLIP_OK) status = choose_device(options->device, &device, error);
  if (status == CNCLIP_OK) status = load_archive(options, *device, &model, error);
  if (status == CNCLIP_OK && options->resizes) status = open_resizer(model, error);
  if (status == CNCLIP_OK) {
    *ret_model = model;
  } else {
    free_model(model);
  }
  return status;
}

cnclip_status prepare(cnclip_model *model, const char *precision, cnclip_error *error) {
  return with_settings(model, {}, "preparing the model", error, [&]() -> cnclip_status {
    call_method(model->module.get_method("prepare"), precision);
    if (model->device.is_cuda()) {
      model->towers =
          cnclip_cuda::open_towers(model->module, model->device, precision, model->normalized);
    }
    return CNCLIP_OK;
  });
}

cnclip_status save_prepared(const cnclip_model *model, const char *path, cnclip_error *error) {
  const cnclip_status status = check_not_forked(error);
  if (status != CNCLIP_OK) return status;
  return guarded(CNCLIP_ERROR_MODEL, "writing the prepared model", error, [&] {
    cnclip_torch::save_prepared(model->module, path);
    return CNCLIP_OK;
  });
}

/* Normalized float32 [count, 3, resolution, resolution] on the model's device. */
at::Tensor floats_of(const cnclip_model *model, const cnclip_pixels *pixels) {
  const auto count = static_cast<int64_t>(pixels->count),
             side = static_cast<int64_t>(pixels->resolution);
  /* from_blob takes no const pointer; nothing writes to the input. */
  if (pixels->floats != nullptr) {
    return at::from_blob(const_cast<float *>(pixels->floats), {count, 3, side, side}, at::kFloat)
        .to(model->device);
  }
  const at::Tensor bytes =
      at::from_blob(const_cast<uint8_t *>(pixels->bytes), {count, side, side, 4}, at::kByte)
          .to(model->device);
  std::vector<at::Tensor> planes;
  for (int64_t channel = 0; channel < 3; channel++) {
    const at::Tensor numbers = bytes.select(3, channel).to(at::kInt);
    planes.push_back(model->normalized.select(0, channel)
                         .index_select(0, numbers.flatten())
                         .view({count, side, side}));
  }
  return at::stack(planes, 1);
}

cnclip_status encode_image(cnclip_model *model, const cnclip_pixels *pixels, float *embeddings,
                           size_t width, cnclip_error *error) {
  /* On one thread, torch computes convolutions of 1 x 1 by another algorithm. */
  const Work work{.is_equal_alone = !model->has_pointwise};
  return run(model, work, pixels->count, "image", error, [&]() -> cnclip_status {
    if (cnclip_cuda::ImageTower *cuda = model->towers.image_tower.get(); cuda != nullptr) {
      if (cuda->embed_dim() != width) return wrong_shape(pixels->count, width, error);
      cuda->encode(*pixels, embeddings);
      return CNCLIP_OK;
    }
    return run_method(*model->encode_image, floats_of(model, pixels), pixels->count, width,
                      embeddings, error);
  });
}

cnclip_status encode_text(cnclip_model *model, const int64_t *ids, size_t count, size_t length,
                          float *embeddings, size_t width, cnclip_error *error) {
  /* A core does 2^23 multiplications in about 0.2 ms; waking a thread takes 0.05 ms or more. */
  constexpr size_t max_small = size_t{1} << 23;
  const Work work{.is_small =
                      model->text_weights > 0 &&
                      model->text_weights <= max_small / std::max(count * length, size_t{1})};
  return run(model, work, count, "text", error, [&]() -> cnclip_status {
    if (cnclip_cuda::TextTower *cuda = model->towers.text_tower.get(); cuda != nullptr) {
      if (cuda->embed_dim() != width) return wrong_shape(count, width, error);
      cuda->encode(ids, count, length, embeddings);
      return CNCLIP_OK;
    }
    const at::Tensor input =
        at::from_blob(const_cast<int64_t *>(ids),
                      {static_cast<int64_t>(count), static_cast<int64_t>(length)}, at::kLong)
            .to(model->device);
    return run_method(*model->encode_text, input, count, width, embeddings, error);
  });
}

cnclip_status resize(cnclip_model *model, const cnclip_image *image, const cnclip_image_plan *plan,
                     uint8_t *bytes, cnclip_error *error) {
  const cnclip_status status = check_not_forked(error);
  if (status != CNCLIP_OK) return status;
  return guarded(CNCLIP_ERROR_MODEL, "resizing an image on the GPU", error, [&] {
    const c10::InferenceMode inference;
    model->resizer->resize(*image, *plan, bytes);
    return CNCLIP_OK;
  });
}

size_t tokens_at_once(const cnclip_model *model) {
  /* On a CPU, enough to fill a matrix product, and few enough that what the layers pass on stays in
   * the caches. */
  return model->device.is_cpu() ? 2048 : 16384;
}

int num_threads(const cnclip_model *model) {
  return model->num_threads > 0 ? model->num_threads : at::get_num_threads();
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const cnclip_engine *cnclip_engine_get(void) {
  static const cnclip_engine engine = {
      .api = CNCLIP_ENGINE_API,
      .name = "torch " TORCH_VERSION,
      .start = start,
      .device_count = device_count,
      .load = load,
      .prepare = prepare,
      .save_prepared = save_prepared,
      .encode_image = encode_image,
      .encode_text = encode_text,
      .resize = resize,
      .tokens_at_once = tokens_at_once,
      .num_threads = num_threads,
      .free = free_model,
  };
  return &engine;
}
