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

/* query_starts: as items.starts, for the queries. */
void attention(const Gpu &gpu, const Items &items, int heads, int head_width, int longest_query,
               DevicePointer query_starts, HeadRows query, HeadRows key, HeadRows value,
               DevicePointer output) {
  enum { QUERIES_OF_WARP = 16, WARP = 32, MOST_WARPS = 8 };
  const float scale = 1.44269504f / std::sqrt(static_cast<float>(head_width));
  const int wanted = (longest_query + QUERIES_OF_WARP - 1) / QUERIES_OF_WARP;
  const int warps = std::min<int>(wanted, MOST_WARPS);
  const Grid grid{static_cast<unsigned>((wanted + warps - 1) / warps),
                  static_cast<unsigned>(heads), static_cast<unsigned>(items.count)};
  launch(gpu.stream, gpu.kernels->attention, grid, static_cast<unsigned>(warps * WARP),
         gpu.kernels->attention_shared_bytes, query.rows, query.stride, key.rows, value.rows,
         key.stride, query_starts, items.starts, scale, output);
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

/* x += attention(x), with its norm. */
void Transformer::attend(const Gpu &gpu, const Items &items, const Layer &layer,
                         const Memory &memory) const {
  DevicePointer input = memory.x;
  if (norm_first) {
    input = memory.hidden;
    normalize(gpu, layer.attention_norm, memory.x, items.rows, input);
  }
  multiply(gpu, layer.qkv, input, items.rows, false, memory.wide);
  const auto column = [&](int part) {
    return HeadRows{memory.wide + static_cast<DevicePointer>(part * width) * HALF_BYTES,
                    3L * width};
  };
  attention(gpu, items, heads, width / heads, items.longest, items.starts, column(0), column(1),
            column(2), memory.mixed);
  multiply(gpu, layer.out, memory.mixed, items.rows, true, memory.x);
  if (!norm_first) normalize(gpu, layer.attention_norm, memory.x, items.rows, memory.x);
}

/* The same for the first row of each item, whose result goes to first_x. */
void Transformer::attend_first(const Gpu &gpu, const Items &items, const Layer &layer,
                               const Memory &memory) const {
  DevicePointer input = memory.x;
  if (norm_first) {
    input = memory.hidden;
    normalize(gpu, layer.attention_norm, memory.x, items.rows, input);
  }
  multiply(gpu, part(layer.qkv, width, 2 * width), input, items.rows, false, memory.wide);
  gather_first(gpu, items, input, memory.first_hidden);
  const DevicePointer queries = memory.mixed; /* unused until the next run */
  multiply(gpu, part(layer.qkv, 0, width), memory.first_hidden, items.count, false, queries);
  const HeadRows keys{memory.wide, 2L * width};
  const HeadRows values{memory.wide + static_cast<DevicePointer>(width) * HALF_BYTES, 2L * width};
  attention(gpu, items, heads, width / heads, 1, items.numbers, {queries, width}, keys, values,
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
  DevicePointer input = x;
  if (norm_first) {
    input = hidden;
    normalize(gpu, layer.feed_norm, x, rows, input);
  }
  multiply(gpu, layer.up, input, rows, false, wide);
  const long values = rows * layer.up.outputs;
  const long blocks = (values + VALUES - 1) / VALUES;
  launch(gpu.stream, gpu.kernels->activate, {static_cast<unsigned>(blocks)}, THREADS, 0, wide,
         values, activation);
  multiply(gpu, layer.down, wide, rows, true, x);
  if (!norm_first) normalize(gpu, layer.feed_norm, x, rows, x);
}

}  // namespace cnclip_cuda
