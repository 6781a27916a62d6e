/* Resampling of images on a GPU, equal to the bit to the core's. No torch here: a test runs these
 * files on the CPU. */
#ifndef CNCLIP_CUDA_RESIZE_HPP
#define CNCLIP_CUDA_RESIZE_HPP

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "engine/torch/cuda/cuda_compiler.hpp"
#include "engine/torch/cuda/cuda_pool.hpp"
#include "image/image.h"

namespace cnclip_cuda {

/* Memory of the GPU, which the last copy frees. */
using DeviceBlock = std::shared_ptr<void>;
using Allocate = std::function<DeviceBlock(std::size_t bytes)>;

/* Bytes of an image that are uploaded at once. A piece is whole rows or whole columns: at least
 * one, also where that has more bytes. */
inline constexpr std::size_t RESIZE_PIECE_BYTES = 8 << 20;

class Resizer {
 public:
  /* Compiles the kernels. allocate: called on the thread of a call, with the GPU's context current.
   * std::runtime_error: the compiler does not know the GPU, or a library is missing. */
  Resizer(int device, Allocate allocate, std::size_t piece_bytes = RESIZE_PIECE_BYTES);
  ~Resizer();
  Resizer(const Resizer &) = delete;
  Resizer &operator=(const Resizer &) = delete;

  /* bytes: [r, r, 4]. Threads may call it at once: a few images are resampled at a time, and each
   * has a stream and memory of its own, a piece on this machine and a piece and the result of the
   * first pass on the GPU. Memory is kept for the next images, as much as the largest one took.
   * std::bad_alloc, what `allocate` throws; std::runtime_error. */
  void resize(const cnclip_image &image, const cnclip_image_plan &plan, std::uint8_t *bytes);

 private:
  class Work;
  struct Places;

  void first_pass(Work *work, const Places &places, const cnclip_image &image,
                  const cnclip_image_plan &plan);
  void run(Work *work, bool vertical, DevicePointer input, int pixel_bytes, int width, int height,
           DevicePointer filter, const cnclip_resample_filter &of, DevicePointer output,
           int output_width);

  Context context_;
  std::size_t piece_bytes_;
  std::optional<LoadedModule> module_;
  Kernel rows_ = nullptr, columns_ = nullptr;
  Pool<Work> works_;
};

}  // namespace cnclip_cuda

#endif
