/* The kernels of cuda_kernels.cu, compiled for one GPU and for the sizes of one tower. */
#ifndef CNCLIP_CUDA_KERNELS_HPP
#define CNCLIP_CUDA_KERNELS_HPP

#include <type_traits>

#include "engine/torch/cuda/cuda_compiler.hpp"

namespace cnclip_cuda {

struct Grid {
  unsigned x, y = 1, z = 1;
};

/* Starts a kernel. The arguments have exactly the types of its parameters. */
template <typename... Arguments>
void launch(Stream stream, Kernel kernel, Grid grid, unsigned threads, unsigned shared_bytes,
            const Arguments &...arguments) {
  static_assert((std::is_trivially_copyable_v<Arguments> && ...));
  void *pointers[] = {const_cast<void *>(static_cast<const void *>(&arguments))...};
  CNCLIP_CUDA(cuLaunchKernel, kernel, grid.x, grid.y, grid.z, threads, 1, 1, shared_bytes, stream,
              pointers, nullptr);
}

class Kernels {
 public:
  /* Compiles them, with the GPU's context current.
   * std::runtime_error: the GPU is too old, or the compiler does not know it. */
  Kernels(int device, bool is_fp16, int head_width, int width);

 private:
  LoadedModule module_; /* the first member, since it is constructed before the kernels */

 public:
  Kernel patches_of_bytes, patches_of_floats, normalize, embed_patches, embed_words, gather_rows,
      unit_rows, activate, attention;
  int head_width;
  int shared_bytes_of_multiprocessor, max_shared_bytes_of_block;
};

}  // namespace cnclip_cuda

#endif
