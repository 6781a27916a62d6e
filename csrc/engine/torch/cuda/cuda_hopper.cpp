#include "engine/torch/cuda/cuda_hopper.hpp"

#include <c10/util/Exception.h>

#include "engine/torch/cuda/cuda_kernels.hpp"

namespace cnclip_cuda {

namespace {

/* The values of cuda_hopper.cu. */
enum {
  BLOCKS = 2,
  ROWS = 128,
  COLUMNS = 192,
  DEPTH = 64,
  PIECE_ROWS = 16,
  PIECE_COLUMNS = 64,
  THREADS = 384,
  SHARED_BYTES = 221280,
};

/* A matrix of 16-bit floats, of which a kernel copies boxes to and from shared memory. */
TensorMap map_of(bool is_fp16, DevicePointer matrix, long rows, int columns, unsigned box_rows,
                 unsigned box_columns) {
  const std::uint64_t sizes[] = {static_cast<std::uint64_t>(columns),
                                 static_cast<std::uint64_t>(rows)};
  const std::uint64_t stride = sizes[0] * 2;
  const unsigned box[] = {box_columns, box_rows}, steps[] = {1, 1};
  TensorMap map{};
  CNCLIP_CUDA(cuTensorMapEncodeTiled, &map, is_fp16 ? MAP_FLOAT16 : MAP_BFLOAT16, 2, matrix, sizes,
              &stride, box, steps, MAP_NOT_INTERLEAVED, MAP_SWIZZLE_128, MAP_L2_256, MAP_ZEROS);
  return map;
}

}  // namespace

HopperLinear::HopperLinear(int device, bool is_fp16, int activation)
    : is_fp16_(is_fp16), activation_(activation) {
  const Capability capability = capability_of(device);
  if (capability.major != 9 || capability.minor != 0) return;
  multiprocessors_ = attribute_of(device, MULTIPROCESSORS);
}

bool HopperLinear::suits(long rows, int inputs, int outputs) {
  const long down = (rows + BLOCKS * ROWS - 1) / (BLOCKS * ROWS);
  const long tiles = down * ((outputs + COLUMNS - 1) / COLUMNS);
  const int clusters = multiprocessors_ / BLOCKS;
  if (clusters == 0 || inputs % DEPTH != 0 || outputs % PIECE_COLUMNS != 0 || tiles <= clusters) {
    return false;
  }
  std::call_once(compiled_, [&] { compile(); });
  return kernel_ != nullptr;
}

void HopperLinear::compile() {
  try {
    module_.emplace(Source::HOPPER,
                    std::vector<std::string>{"--gpu-architecture=sm_90a",
                                             "-DCNCLIP_FP16=" + std::to_string(is_fp16_),
                                             "-DCNCLIP_ACTIVATION=" + std::to_string(activation_)});
    const Kernel kernel = module_->kernel("linear_activated");
    CNCLIP_CUDA(cuFuncSetAttribute, kernel, MAX_DYNAMIC_SHARED_BYTES, SHARED_BYTES);
    kernel_ = kernel;
  } catch (const std::exception &error) {
    TORCH_WARN("cnclip computes linear layers by cuBLASLt, since its own kernel cannot be used: ",
               error.what());
  }
}

void HopperLinear::run(Stream stream, DevicePointer input, DevicePointer weight, DevicePointer bias,
                       long rows, int inputs, int outputs, DevicePointer output) {
  const auto blocks = static_cast<unsigned>(multiprocessors_ / BLOCKS * BLOCKS);
  launch(stream, kernel_, {blocks}, THREADS, SHARED_BYTES,
         map_of(is_fp16_, input, rows, inputs, ROWS, DEPTH),
         map_of(is_fp16_, weight, outputs, inputs, COLUMNS / BLOCKS, DEPTH),
         map_of(is_fp16_, output, rows, outputs, PIECE_ROWS, PIECE_COLUMNS), bias,
         static_cast<int>(rows), outputs, inputs);
}

}  // namespace cnclip_cuda
