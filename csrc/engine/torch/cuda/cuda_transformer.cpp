#include "engine/torch/cuda/cuda_transformer.hpp"

#include <algorithm>
#include <cmath>

namespace cnclip_cuda {

namespace {

constexpr DevicePointer HALF_BYTES = 2;

/* `count` outputs of a linear layer, from `first` on. */
Linear part(const Linear &linear, int first, int count) {
  const auto weight_offset =
      static_cast<DevicePointer>(first) * static_cast<DevicePointer>(linear.inputs) * HALF_BYTES;
  return {linear.weight + weight_offset,
          linear.bias + static_cast<DevicePointer>(first) * HALF_BYTES, linear.inputs, count};
}

void gather_first(const Gpu &gpu, const Items &items, DevicePointer rows, DevicePointer output) {
  launch(gpu.stream, gpu.kernels->gather_rows, row_grid(items.count), ROW_THREADS, 0, rows,
         items.starts, static_cast<long>(items.count), output);
}

/* A matrix of rows with the columns of all heads. */
struct HeadRows {
  DevicePointer rows;
  long stride;
};

/* How the kernel `attention` is started. The comment of the kernel explains the capacity. */
struct AttentionPlan {
  int capacity, warps, blocks; /* blocks: those that share the queries of an item */
  unsigned shared_bytes;
};

AttentionPlan plan_attention(const Kernels &kernels, int longest_query, int longest_key) {
  /* The first three as in cuda_kernels.cu. CUDA reserves some shared memory in each block. */
  enum { QUERIES = 16, GRANULE = 16, CHUNK = 7 * GRANULE, MAX_WARPS = 12, RESERVED_BYTES = 1024 };
  const auto shared_bytes = [&](int capacity) {
    const int granule_bytes = GRANULE * kernels.head_width * 2;
    return (capacity + GRANULE - 1) / GRANULE * granule_bytes * 2 +
           (capacity + CHUNK - 1) / CHUNK * 8;
  };
  AttentionPlan plan{};
  plan.capacity = (longest_key + GRANULE - 1) / GRANULE * GRANULE;
  const bool fits = shared_bytes(plan.capacity) <= kernels.max_shared_bytes_of_block;
  if (!fits) {
    plan.capacity = CHUNK;
    while (shared_bytes(plan.capacity + CHUNK) <= kernels.max_shared_bytes_of_block) {
      plan.capacity += CHUNK;
    }
  }
  const int bytes = shared_bytes(plan.capacity);
  const int tiles = (longest_query + QUERIES - 1) / QUERIES;
  const int resident =
      std::max(1, kernels.shared_bytes_of_multiprocessor / (bytes + RESERVED_BYTES));
  plan.warps = std::min(tiles, std::max(4, MAX_WARPS / resident));
  const int chunks = (plan.capacity + CHUNK - 1) / CHUNK;
  plan.warps = std::max(plan.warps, (chunks + 31) / 32); /* a thread per chunk */
  plan.blocks = fits ? 1 : (tiles + plan.warps - 1) / plan.warps;
  plan.shared_bytes = static_cast<unsigned>(bytes);
  return plan;
}

/* query_starts: as items.starts, for the queries. */
void attention(const Gpu &gpu, const Items &items, int heads, int longest_query,
               DevicePointer query_starts, HeadRows query, HeadRows key, HeadRows value,
               DevicePointer output) {
  const Kernels &kernels = *gpu.kernels;
  const float scale = 1.44269504f / std::sqrt(static_cast<float>(kernels.head_width));
  const AttentionPlan plan = plan_attention(kernels, longest_query, items.longest);
  const Grid grid{static_cast<unsigned>(plan.blocks), static_cast<unsigned>(heads),
                  static_cast<unsigned>(items.count)};
  launch(gpu.stream, kernels.attention, grid, static_cast<unsigned>(plan.warps) * 32U,
         plan.shared_bytes, query.rows, query.stride, key.rows, value.rows, key.stride,
         query_starts, items.starts, scale, output, plan.capacity);
}

}  // namespace

Grid row_grid(long rows) {
  enum { ROWS = ROW_THREADS / 32 };
  return {static_cast<unsigned>((rows + ROWS - 1) / ROWS)};
}

void normalize(const Gpu &gpu, const Norm &norm, DevicePointer input, long rows,
               DevicePointer output) {
  launch(gpu.stream, gpu.kernels->normalize, row_grid(rows), ROW_THREADS, 0, input, rows,
         norm.weight, norm.bias, norm.epsilon, output);
}

void multiply(const Gpu &gpu, const Linear &linear, DevicePointer input, long rows, bool adds,
              DevicePointer output) {
  const bool is_plain = !adds && linear.bias != 0;
  if (is_plain && gpu.plain->suits(rows, linear.inputs, linear.outputs)) {
    gpu.plain->run(gpu.stream, input, linear.weight, linear.bias, rows, linear.inputs,
                   linear.outputs, output);
    return;
  }
  const ProductShape shape{.rows = rows,
                           .inputs = linear.inputs,
                           .outputs = linear.outputs,
                           .has_bias = linear.bias != 0,
                           .adds = adds,
                           .to_float = false};
  gpu.products->run(shape, input, linear.weight, linear.bias, output);
}

int Transformer::widest() const {
  return std::max(3 * width, layers.front().up.outputs);
}

void Transformer::run(const Gpu &gpu, const Items &items, const Memory &memory) const {
  for (std::size_t i = 0; i < layers.size(); i++) {
    const Layer &layer = layers[i];
    if (i + 1 == layers.size()) {
      attend_first(gpu, items, layer, memory);
      feed(gpu, items.count, layer, memory.first_x, memory.first_hidden, memory.wide);
    } else {
      attend(gpu, items, layer, memory);
      feed(gpu, items.rows, layer, memory.x, memory.hidden, memory.wide);
    }
  }
}

DevicePointer Transformer::input_of(const Gpu &gpu, const Norm &norm, DevicePointer x, long rows,
                                    DevicePointer hidden) const {
  if (!norm_first) return x;
  normalize(gpu, norm, x, rows, hidden);
  return hidden;
}

/* x += attention(x), with its norm. */
void Transformer::attend(const Gpu &gpu, const Items &items, const Layer &layer,
                         const Memory &memory) const {
  const DevicePointer input =
      input_of(gpu, layer.attention_norm, memory.x, items.rows, memory.hidden);
  multiply(gpu, layer.qkv, input, items.rows, false, memory.wide);
  const auto column = [&](int part) {
    return HeadRows{memory.wide + static_cast<DevicePointer>(part * width) * HALF_BYTES,
                    3L * width};
  };
  attention(gpu, items, heads, items.longest, items.starts, column(0), column(1), column(2),
            memory.mixed);
  multiply(gpu, layer.out, memory.mixed, items.rows, true, memory.x);
  if (!norm_first) normalize(gpu, layer.attention_norm, memory.x, items.rows, memory.x);
}

/* first_x = x + attention(x) for the first row of each item, with its norm. */
void Transformer::attend_first(const Gpu &gpu, const Items &items, const Layer &layer,
                               const Memory &memory) const {
  const DevicePointer input =
      input_of(gpu, layer.attention_norm, memory.x, items.rows, memory.hidden);
  multiply(gpu, part(layer.qkv, width, 2 * width), input, items.rows, false, memory.wide);
  gather_first(gpu, items, input, memory.first_hidden);
  const DevicePointer queries = memory.mixed; /* unused until the next run */
  multiply(gpu, part(layer.qkv, 0, width), memory.first_hidden, items.count, false, queries);
  const HeadRows keys{memory.wide, 2L * width};
  const HeadRows values{memory.wide + static_cast<DevicePointer>(width) * HALF_BYTES, 2L * width};
  attention(gpu, items, heads, 1, items.numbers, {queries, width}, keys, values,
            memory.first_mixed);
  gather_first(gpu, items, memory.x, memory.first_x);
  multiply(gpu, layer.out, memory.first_mixed, items.count, true, memory.first_x);
  if (!norm_first) {
    normalize(gpu, layer.attention_norm, memory.first_x, items.count, memory.first_x);
  }
}

/* x += feed-forward(x), with its norm. */
void Transformer::feed(const Gpu &gpu, long rows, const Layer &layer, DevicePointer x,
                       DevicePointer hidden, DevicePointer wide) const {
  enum { THREADS = 256, VALUES = THREADS * 8 /* of a block */ };
  const DevicePointer input = input_of(gpu, layer.feed_norm, x, rows, hidden);
  const Linear &up = layer.up;
  if (gpu.activated->suits(rows, up.inputs, up.outputs)) {
    gpu.activated->run(gpu.stream, input, up.weight, up.bias, rows, up.inputs, up.outputs, wide);
  } else {
    multiply(gpu, up, input, rows, false, wide);
    const long values = rows * up.outputs;
    const long blocks = (values + VALUES - 1) / VALUES;
    launch(gpu.stream, gpu.kernels->activate, {static_cast<unsigned>(blocks)}, THREADS, 0, wide,
           values, activation);
  }
  multiply(gpu, layer.down, wide, rows, true, x);
  if (!norm_first) normalize(gpu, layer.feed_norm, x, rows, x);
}

}  // namespace cnclip_cuda
