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

  /* Whether it is there for this layer, and faster than cuBLASLt and a kernel for the activation.
   * Few rows give too few multiprocessors something to do. */
  bool suits(long rows, int inputs, int outputs) const;

  /* output[rows, outputs] = activation(input[rows, inputs] weight[outputs, inputs]^T + bias), of
   * 16-bit floats. The first call compiles the kernel. */
  void run(Stream stream, DevicePointer input, DevicePointer weight, DevicePointer bias, long rows,
           int inputs, int outputs, DevicePointer output);

 private:
  void compile();

  bool is_fp16_;
  int activation_, multiprocessors_ = 0; /* 0: another kind of GPU */
  std::once_flag compiled_;
  std::optional<LoadedModule> module_;
  Kernel kernel_ = nullptr;
};

}  // namespace cnclip_cuda

#endif
