#include "engine/torch/cuda/cuda_runs.hpp"

#include <ATen/ops/empty.h>

namespace cnclip_cuda {

namespace {

constexpr std::int64_t BLAS_BYTES = 32 << 20; /* what cuBLASLt asks for on the newest GPUs */

/* Memory from torch's allocator, so that its caches are emptied if there is too little. Work that
 * torch has queued may still write to it. */
at::Tensor allocate(std::int64_t bytes, c10::Device device) {
  const at::Tensor memory =
      at::empty({bytes}, at::TensorOptions().dtype(at::kByte).device(device));
  CNCLIP_CUDA(cuCtxSynchronize);
  return memory;
}

DevicePointer address(const at::Tensor &memory) {
  return reinterpret_cast<DevicePointer>(memory.data_ptr());
}

}  // namespace

Run::Run(c10::Device device, bool is_fp16) : device_(device) {
  blas_memory_ = allocate(BLAS_BYTES, device);
  CNCLIP_CUDA(cuStreamCreate, &stream_, STREAM_NON_BLOCKING);
  products_.emplace(is_fp16, stream_, address(blas_memory_), BLAS_BYTES);
}

Run::~Run() {
  if (stream_ != nullptr) library().cuStreamSynchronize(stream_);
  forget_recordings();
  products_.reset();
  if (stream_ != nullptr) library().cuStreamDestroy_v2(stream_);
}

DevicePointer Run::memory() const {
  return address(memory_);
}

void Run::reserve(std::size_t bytes, std::size_t input_bytes, std::size_t output_bytes) {
  bool moved = false;
  if (!memory_.defined() || memory_.nbytes() < bytes) {
    wait();
    forget_recordings();
    memory_.reset(); /* the new memory may be taken from it */
    memory_ = allocate(static_cast<std::int64_t>(bytes), device_);
  }
  moved = input_.reserve(input_bytes);
  moved = output_.reserve(output_bytes) || moved;
  if (moved) forget_recordings();
}

void Run::end_recording(Recording *recording) {
  Graph graph = nullptr;
  const int status = library().cuStreamEndCapture(stream_, &graph);
  if (recording == nullptr) { /* after an error, which is reported elsewhere */
    if (graph != nullptr) library().cuGraphDestroy(graph);
    return;
  }
  check(status, "cuStreamEndCapture");
  const int instantiated =
      library().cuGraphInstantiateWithFlags(&recording->graph, graph, 0);
  library().cuGraphDestroy(graph);
  if (instantiated != 0) recording->graph = nullptr;
  check(instantiated, "cuGraphInstantiateWithFlags");
}

void Run::forget_recordings() {
  for (const auto &[key, recording] : recordings_) {
    if (recording.graph != nullptr) library().cuGraphExecDestroy(recording.graph);
  }
  recordings_.clear();
}

std::size_t Runs::take() {
  std::size_t index = 0;
  {
    std::unique_lock lock(mutex_);
    given_back_.wait(lock, [&] {
      for (index = 0; index < COUNT && taken_[index]; index++) {
      }
      return index < COUNT;
    });
    taken_[index] = true;
  }
  try {
    if (runs_[index] == nullptr) runs_[index] = std::make_unique<Run>(device_, is_fp16_);
  } catch (...) {
    give_back(index);
    throw;
  }
  return index;
}

void Runs::give_back(std::size_t index) {
  {
    const std::lock_guard lock(mutex_);
    taken_[index] = false;
  }
  given_back_.notify_one();
}

void Runs::clear() {
  for (std::unique_ptr<Run> &run : runs_) run.reset();
}

}  // namespace cnclip_cuda
