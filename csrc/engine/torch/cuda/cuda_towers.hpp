/* The transformer towers of a model on one GPU, in float16 or bfloat16: our kernels and cuBLASLt in
 * place of TorchScript. */
#ifndef CNCLIP_CUDA_TOWERS_HPP
#define CNCLIP_CUDA_TOWERS_HPP

#include <memory>
#include <string>

#include <c10/core/Device.h>
#include <torch/csrc/jit/api/module.h>

#include "engine/engine.h"

namespace cnclip_cuda {

/* One tower. Threads may run it at once: each run has a stream and memory that no other uses. */
class Tower {
 public:
  virtual ~Tower() = default;

  virtual std::size_t embed_dim() const = 0;
};

class ImageTower : public Tower {
 public:
  /* embeddings: float32 [pixels.count, embed_dim]. */
  virtual void encode(const cnclip_pixels &pixels, float *embeddings) = 0;
};

class TextTower : public Tower {
 public:
  /* ids: [count, length]; embeddings: float32 [count, embed_dim]. */
  virtual void encode(const std::int64_t *ids, std::size_t count, std::size_t length,
                      float *embeddings) = 0;
};

/* NULL: there are no kernels for this tower (a ResNet; a head width that is not a multiple of 16),
 * for this precision or for this GPU. */
struct Towers {
  std::unique_ptr<ImageTower> image_tower;
  std::unique_ptr<TextTower> text_tower;
};

/* The towers of a module whose method `prepare` has run. They use the module's tensors, which they
 * keep. Where kernels cannot be compiled or a library is missing, it warns: the model runs all the
 * same, more slowly. normalized: float32 [3, 256] on the GPU: cnclip_model_options.normalized; may
 * be undefined. c10::OutOfMemoryError: the GPU's memory is full. */
Towers open_towers(const torch::jit::Module &module, c10::Device device,
                   const std::string &precision, const at::Tensor &normalized);

}  // namespace cnclip_cuda

#endif
