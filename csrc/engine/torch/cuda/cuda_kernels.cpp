#include "engine/torch/cuda/cuda_kernels.hpp"

namespace cnclip_cuda {

namespace {

std::vector<std::string> options_for(int device, bool is_fp16, int head_width, int width) {
  const Capability capability = capability_of(device);
  if (capability.major < 8) {
    throw std::runtime_error("they need a GPU of compute capability 8 or more");
  }
  return {"--gpu-architecture=" + capability.architecture(),
          "-DCNCLIP_FP16=" + std::to_string(is_fp16), "-DCNCLIP_HEAD=" + std::to_string(head_width),
          "-DCNCLIP_WIDTH=" + std::to_string(width)};
}

}  // namespace

Kernels::Kernels(int device, bool is_fp16, int of_head, int width)
    : module_(Source::KERNELS, options_for(device, is_fp16, of_head, width)),
      patches_of_bytes(module_.kernel("patches_of_bytes")),
      patches_of_floats(module_.kernel("patches_of_floats")),
      normalize(module_.kernel("normalize")),
      embed_patches(module_.kernel("embed_patches")),
      embed_words(module_.kernel("embed_words")),
      gather_rows(module_.kernel("gather_rows")),
      unit_rows(module_.kernel("unit_rows")),
      activate(module_.kernel("activate")),
      attention(module_.kernel("attention")),
      head_width(of_head),
      shared_bytes_of_multiprocessor(attribute_of(device, SHARED_BYTES_OF_MULTIPROCESSOR)),
      max_shared_bytes_of_block(attribute_of(device, MAX_SHARED_BYTES_OF_BLOCK)) {
  CNCLIP_CUDA(cuFuncSetAttribute, attention, MAX_DYNAMIC_SHARED_BYTES, max_shared_bytes_of_block);
}

}  // namespace cnclip_cuda
