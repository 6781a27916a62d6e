/* A libtorch_cuda.so whose driver and compiler run cuda_resize.cu on the CPU, for
 * resize_on_host.cpp. What is queued on a stream is done when the stream is waited for, so that a
 * wait that is missing shows. */
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "engine/torch/cuda/cuda_library.hpp"

using namespace cnclip_cuda;

#define __global__
#define __device__
#define __forceinline__ inline
namespace {
thread_local struct { unsigned x; } blockIdx, threadIdx, blockDim, gridDim;
}  // namespace
#include "engine/torch/cuda/cuda_resize.cu"

struct cnclip_cuda::CUstream_st {
  std::vector<std::function<void()>> queue;
};
struct cnclip_cuda::CUfunc_st {
  std::string name;
};
namespace {

CUfunc_st rows{"resample_rows"}, columns{"resample_columns"};

template <typename Value>
Value argument(void **arguments, int number) {
  Value value;
  std::memcpy(&value, arguments[number], sizeof value);
  return value;
}

void run_threads(unsigned blocks, unsigned threads, const std::function<void()> &body) {
  gridDim.x = blocks, blockDim.x = threads;
  for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) {
    for (threadIdx.x = 0; threadIdx.x < threads; threadIdx.x++) body();
  }
}

/* Fails once, at the allocation whose number is in the environment. */
bool fails_now() {
  static const char *number = std::getenv("FAILING_PINNED");
  static int calls = 0;
  return number != nullptr && ++calls == std::atoi(number);
}

}  // namespace

extern "C" {

int cuDeviceGet(int *device, int number) {
  *device = number;
  return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int) {
  *value = attribute == COMPUTE_MAJOR ? 7 : 5;
  return 0;
}
int cuDevicePrimaryCtxRetain(Context *context, int) {
  *context = reinterpret_cast<Context>(1);
  return 0;
}
int cuCtxPushCurrent_v2(Context) {
  return 0;
}
int cuCtxPopCurrent_v2(Context *context) {
  *context = nullptr;
  return 0;
}
int cuCtxGetCurrent(Context *context) {
  *context = reinterpret_cast<Context>(1);
  return 0;
}
int cuModuleLoadData(Module *module, const void *) {
  *module = reinterpret_cast<Module>(1);
  return 0;
}
int cuModuleUnload(Module) {
  return 0;
}
int cuModuleGetFunction(Kernel *kernel, Module, const char *name) {
  *kernel = rows.name == name ? &rows : columns.name == name ? &columns : nullptr;
  return *kernel == nullptr ? 500 /* CUDA_ERROR_NOT_FOUND */ : 0;
}

int cuLaunchKernel(Kernel kernel, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                   unsigned block_x, unsigned block_y, unsigned block_z, unsigned, Stream stream,
                   void **arguments, void **) {
  if (grid_x == 0 || grid_y * grid_z * block_y * block_z != 1 || block_x > 1024) return 1;
  const auto input = argument<const u8 *>(arguments, 0);
  const int pixel_bytes = argument<int>(arguments, 1), width = argument<int>(arguments, 2);
  const int more = kernel == &rows ? 1 : 0; /* resample_rows has the number of rows */
  const int height = argument<int>(arguments, 3);
  const auto filter = argument<const int *>(arguments, 3 + more);
  const int capacity = argument<int>(arguments, 4 + more),
            size = argument<int>(arguments, 5 + more);
  const auto output = argument<u8 *>(arguments, 6 + more);
  const int output_width = kernel == &rows ? 0 : argument<int>(arguments, 7);
  stream->queue.emplace_back([=] {
    run_threads(grid_x, block_x, [=] {
      if (kernel == &rows) {
        resample_rows(input, pixel_bytes, width, height, filter, capacity, size, output);
      } else {
        resample_columns(input, pixel_bytes, width, filter, capacity, size, output, output_width);
      }
    });
  });
  return 0;
}

int cuStreamCreate(Stream *stream, unsigned) {
  *stream = new CUstream_st;
  return 0;
}
int cuStreamSynchronize(Stream stream) {
  for (const auto &work : stream->queue) work();
  stream->queue.clear();
  return 0;
}
int cuStreamDestroy_v2(Stream stream) {
  delete stream;
  return 0;
}
int cuMemHostAlloc(void **memory, std::size_t bytes, unsigned) {
  *memory = fails_now() ? nullptr : std::malloc(bytes);
  return *memory == nullptr ? OUT_OF_MEMORY : 0;
}
int cuMemFreeHost(void *memory) {
  std::free(memory);
  return 0;
}
int cuMemcpyHtoDAsync_v2(DevicePointer to, const void *from, std::size_t bytes, Stream stream) {
  stream->queue.emplace_back([=] { std::memcpy(reinterpret_cast<void *>(to), from, bytes); });
  return 0;
}
int cuMemcpyDtoHAsync_v2(void *to, DevicePointer from, std::size_t bytes, Stream stream) {
  stream->queue.emplace_back([=] { std::memcpy(to, reinterpret_cast<void *>(from), bytes); });
  return 0;
}
int nvrtcCreateProgram(Program *program, const char *source, const char *, int, const char *const *,
                       const char *const *) {
  *program = reinterpret_cast<Program>(1);
  return std::strstr(source, "resample_columns") == nullptr; /* another file's text */
}
int nvrtcCompileProgram(Program, int count, const char *const *options) {
  return count < 1 || std::strcmp(options[0], "--gpu-architecture=sm_75") != 0;
}
int nvrtcGetCUBINSize(Program, std::size_t *bytes) {
  *bytes = 1;
  return 0;
}
int nvrtcGetCUBIN(Program, char *image) {
  *image = 0;
  return 0;
}
int nvrtcDestroyProgram(Program *) {
  return 0;
}

}  // extern "C"
