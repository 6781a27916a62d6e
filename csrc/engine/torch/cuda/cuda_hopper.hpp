/* The kernel of cuda_hopper.cu: a linear layer with its activation, for GPUs of compute capability
 * 9.0 and many rows. */
#ifndef CNCLIP_CUDA_HOPPER_HPP
#define CNCLIP_CUDA_HOPPER_HPP

#include <mutex>
#include <optional>

#include "engine/torch/cuda/cuda_compiler.hpp"

namespace cnclip_cuda {

class HopperLinear {
 public:
  /* activation: a cnclip_activation. */
  HopperLinear(int device, bool is_fp16, int activation);

  /* Whether this kernel can compute the layer, faster than cuBLASLt and a kernel for the
   * activation. With few rows, too many multiprocessors would be idle. Compiles the kernel the
   * first time that it would be used, with the GPU's context current, and warns where it cannot be
   * compiled. */
  bool suits(long rows, int inputs, int outputs);

  /* output[rows, outputs] = activation(input[rows, inputs] weight[outputs, inputs]^T + bias), of
   * 16-bit floats. For layers that suit. */
  void run(Stream stream, DevicePointer input, DevicePointer weight, DevicePointer bias, long rows,
           int inputs, int outputs, DevicePointer output);

 private:
  void compile();

  bool is_fp16_;
  int activation_, multiprocessors_ = 0; /* 0: another kind of GPU */
  std::once_flag compiled_;
  std::optional<LoadedModule> module_;
  Kernel kernel_ = nullptr; /* NULL: not compiled, or it cannot be */
};

}  // namespace cnclip_cuda

#endif
