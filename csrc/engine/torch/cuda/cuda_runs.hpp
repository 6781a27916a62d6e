/* Runs of a tower on a GPU: each has a stream and memory that no other run uses. Small runs of
 * the same sizes are recorded as a graph, which starts all kernels at once. */
#ifndef CNCLIP_CUDA_RUNS_HPP
#define CNCLIP_CUDA_RUNS_HPP

#include <ATen/core/Tensor.h>

#include <array>
#include <exception>
#include <map>

#include "engine/torch/cuda/cuda_pool.hpp"
#include "engine/torch/cuda/cuda_products.hpp"
#include "engine/torch/cuda/cuda_resize.hpp"

namespace cnclip_cuda {

using GraphKey = std::array<long, 4>;

/* Waits for what torch has queued on this thread's current stream. Memory from torch's allocator
 * may be used on other streams then. Waiting for the whole context would break the recording of a
 * graph by another thread. */
void wait_for_torch(c10::Device device);

/* What one run uses. To be created, used and destroyed with the GPU's context current. */
class Run {
 public:
  Run(c10::Device device, bool is_fp16);
  ~Run();
  Run(const Run &) = delete;
  Run &operator=(const Run &) = delete;

  Stream stream() const { return stream_.get(); }
  Products &products() { return products_; }
  void *input() const { return input_.data(); }
  void *output() const { return output_.data(); }
  DevicePointer memory() const;

  /* Makes memory available: `bytes` on the GPU; here, `input_bytes` to upload from and
   * `output_bytes` to download to. What they had is lost.
   * c10::OutOfMemoryError, std::bad_alloc. */
  void reserve(std::size_t bytes, std::size_t input_bytes, std::size_t output_bytes);

  /* Queues the work of `body` on the stream. From the second time with the same key and memory on,
   * a graph of the kernels is launched in its place, so `body` has to queue the same work each
   * time. */
  template <typename Body>
  void repeat(const GraphKey &key, Body body) {
    Recording &recording = recordings_[key];
    if (recording.graph == nullptr && recording.seen) record(&recording, body);
    if (recording.graph != nullptr) {
      CNCLIP_CUDA(cuGraphLaunch, recording.graph, stream());
    } else {
      body(); /* the first time also chooses algorithms and loads kernels */
      recording.seen = true;
    }
  }

  void wait() { CNCLIP_CUDA(cuStreamSynchronize, stream()); }

 private:
  struct Recording {
    bool seen = false;
    GraphRun graph = nullptr;
  };

  /* Leaves the graph NULL after any error: another thread that waits for the whole GPU, such as
   * torch.cuda.synchronize, ends a capture. An error of `body` appears again without a graph. */
  template <typename Body>
  void record(Recording *recording, Body body) {
    CNCLIP_CUDA(cuStreamBeginCapture_v2, stream(), CAPTURE_THREAD_LOCAL);
    bool complete = true;
    try {
      body();
    } catch (const std::exception &) {
      complete = false;
    }
    recording->graph = end_recording(complete);
  }

  /* NULL: the capture is not complete, or it failed. */
  GraphRun end_recording(bool complete);
  void forget_recordings();

  c10::Device device_;
  OwnedStream stream_;
  at::Tensor memory_, blas_memory_;
  PinnedMemory input_, output_;
  Products products_;
  std::map<GraphKey, Recording> recordings_;
};

using Runs = Pool<Run>;

/* Memory from torch's allocator, so that its caches are emptied if there is too little. */
DeviceBlock allocate_by_torch(std::size_t bytes, c10::Device device);

}  // namespace cnclip_cuda

#endif
