/* The layers of a tower on a GPU. Rows of all items follow each other without padding. */
#ifndef CNCLIP_CUDA_TRANSFORMER_HPP
#define CNCLIP_CUDA_TRANSFORMER_HPP

#include <vector>

#include "engine/torch/cuda/cuda_hopper.hpp"
#include "engine/torch/cuda/cuda_kernels.hpp"
#include "engine/torch/cuda/cuda_products.hpp"

namespace cnclip_cuda {

/* The pointers of Linear and Norm are to memory of tensors, which the tower keeps. */
struct Linear {
  DevicePointer weight, bias; /* 16-bit floats [outputs, inputs] and [outputs]; bias 0: none */
  int inputs, outputs;
};

struct Norm {
  DevicePointer weight, bias; /* float32 */
  float epsilon;
};

struct Layer {
  Linear qkv, out, up, down;
  Norm attention_norm, feed_norm;
};

/* Working memory of a tower: rows of 16-bit floats. */
struct Memory {
  DevicePointer input;                              /* what was uploaded */
  DevicePointer x, hidden, mixed;                   /* [rows, width] */
  DevicePointer wide;                               /* [rows, the widest result of a layer] */
  DevicePointer first_x, first_hidden, first_mixed; /* [items, width] */
  DevicePointer embeddings;                         /* float32 [items, embed_dim] */
};

struct Items {
  int count, longest;    /* rows of the longest item, or more */
  long rows;             /* of all items, or more */
  DevicePointer starts;  /* int32 [count + 1]: the first row of each */
  DevicePointer numbers; /* int32 [count + 1]: 0, 1, 2, ... */
};

/* The objects that a tower's work is queued with. */
struct Gpu {
  Stream stream;
  Products *products;
  const Kernels *kernels;
  HopperLinear *plain, *activated; /* without an activation, and with the tower's activation */
};

struct Transformer {
  std::vector<Layer> layers;
  int width, heads;
  int activation;  /* a cnclip_activation */
  bool norm_first; /* norms before attention and feed-forward (ViT), or after them (BERT) */

  /* Columns of Memory.wide. */
  int widest() const;

  /* From memory.x to the first row of each item after the last layer, in memory.first_x. */
  void run(const Gpu &gpu, const Items &items, const Memory &memory) const;

 private:
  /* The rows that attention or feed-forward reads: x, or where norms come first, `hidden`, which
   * gets the norm of x. */
  DevicePointer input_of(const Gpu &gpu, const Norm &norm, DevicePointer x, long rows,
                         DevicePointer hidden) const;
  void attend(const Gpu &gpu, const Items &items, const Layer &layer, const Memory &memory) const;
  void attend_first(const Gpu &gpu, const Items &items, const Layer &layer,
                    const Memory &memory) const;
  void feed(const Gpu &gpu, long rows, const Layer &layer, DevicePointer x, DevicePointer hidden,
            DevicePointer wide) const;
};

/* rows: [rows, the width that the kernels are compiled for]; `output` may be `input`. */
void normalize(const Gpu &gpu, const Norm &norm, DevicePointer input, long rows,
               DevicePointer output);

/* The grid for kernels in which one warp computes one row, with blocks of ROW_THREADS. */
enum { ROW_THREADS = 256 };
Grid row_grid(long rows);

/* output = input weight^T + bias (+ output). */
void multiply(const Gpu &gpu, const Linear &linear, DevicePointer input, long rows, bool adds,
              DevicePointer output);

}  // namespace cnclip_cuda

#endif
