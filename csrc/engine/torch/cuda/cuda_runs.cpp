#include "engine/torch/cuda/cuda_runs.hpp"

#include <ATen/ops/empty.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace cnclip_cuda {

namespace {

constexpr std::int64_t BLAS_BYTES = 32 << 20; /* what cuBLASLt asks for on the newest GPUs */

/* As allocate_by_torch. */
at::Tensor allocate(std::int64_t bytes, c10::Device device) {
  const at::Tensor memory = at::empty({bytes}, at::TensorOptions().dtype(at::kByte).device(device));
  wait_for_torch(device); /* the memory's last owner may have queued work that writes to it */
  return memory;
}

DevicePointer address(const at::Tensor &memory) {
  return reinterpret_cast<DevicePointer>(memory.data_ptr());
}

}  // namespace

void wait_for_torch(c10::Device device) {
  c10::impl::VirtualGuardImpl(device.type()).getStream(device).synchronize();
}

Run::Run(c10::Device device, bool is_fp16)
    : device_(device),
      blas_memory_(allocate(BLAS_BYTES, device)),
      products_(is_fp16, stream(), address(blas_memory_), BLAS_BYTES) {}

Run::~Run() {
  library().cuStreamSynchronize(stream()); /* after an error, work may be left on it */
  forget_recordings();
}

DevicePointer Run::memory() const {
  return address(memory_);
}

void Run::reserve(std::size_t bytes, std::size_t input_bytes, std::size_t output_bytes) {
  const bool fits = memory_.defined() && memory_.nbytes() >= bytes;
  if (fits && input_.bytes() >= input_bytes && output_.bytes() >= output_bytes) return;
  wait();              /* after an error, work may be left that uses the memory */
  forget_recordings(); /* they have the addresses */
  if (!fits) {
    memory_.reset(); /* the new memory may be taken from it */
    memory_ = allocate(static_cast<std::int64_t>(bytes), device_);
  }
  input_.reserve(input_bytes);
  output_.reserve(output_bytes);
}

GraphRun Run::end_recording(bool complete) {
  Graph graph = nullptr;
  if (library().cuStreamEndCapture(stream(), &graph) != 0 || graph == nullptr) return nullptr;
  GraphRun run = nullptr;
  if (complete && library().cuGraphInstantiateWithFlags(&run, graph, 0) != 0) run = nullptr;
  library().cuGraphDestroy(graph);
  return run;
}

void Run::forget_recordings() {
  for (const auto &[key, recording] : recordings_) {
    if (recording.graph != nullptr) library().cuGraphExecDestroy(recording.graph);
  }
  recordings_.clear();
}

DeviceBlock allocate_by_torch(std::size_t bytes, c10::Device device) {
  const at::Tensor memory = allocate(static_cast<std::int64_t>(bytes), device);
  return {memory.data_ptr(), [memory](void *) {}};
}

}  // namespace cnclip_cuda
