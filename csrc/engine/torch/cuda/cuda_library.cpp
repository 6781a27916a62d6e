#include "engine/torch/cuda/cuda_library.hpp"

#include <dlfcn.h>

#include <new>

namespace cnclip_cuda {

namespace {

#ifdef __linux__

template <typename Function>
void find(void *handle, const char *name, Function **ret_function) {
  void *symbol = dlsym(handle, name);
  if (symbol == nullptr) throw std::runtime_error(std::string("CUDA has no function ") + name);
  *ret_function = reinterpret_cast<Function *>(symbol);
}

/* dlsym also searches the libraries that a library depends on. libtorch_cuda depends on cuBLASLt.
 * libcaffe2_nvrtc, which torch opens when it compiles kernels, depends on NVRTC and the driver. */
Library load() {
  void *torch_cuda = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  if (torch_cuda == nullptr) throw std::runtime_error("libtorch_cuda.so is not loaded");
  char folder[4096];
  if (dlinfo(torch_cuda, RTLD_DI_ORIGIN, folder) != 0) throw std::runtime_error(dlerror());
  const std::string path = std::string(folder) + "/libcaffe2_nvrtc.so";
  void *compiler = dlopen(path.c_str(), RTLD_LAZY);
  if (compiler == nullptr) throw std::runtime_error(dlerror());
  Library loaded;
#define CNCLIP_FIND(name, parameters) find(compiler, #name, &loaded.name);
  CNCLIP_DRIVER_FUNCTIONS(CNCLIP_FIND)
  CNCLIP_COMPILER_FUNCTIONS(CNCLIP_FIND)
#undef CNCLIP_FIND
#define CNCLIP_FIND(name, parameters) find(torch_cuda, #name, &loaded.name);
  CNCLIP_BLAS_FUNCTIONS(CNCLIP_FIND)
#undef CNCLIP_FIND
  return loaded;
}

#else

Library load() {
  throw std::runtime_error("there is no torch for CUDA on this system");
}

#endif

}  // namespace

const Library &library() {
  static const Library loaded = load();
  return loaded;
}

void check(int status, const char *function) {
  if (status == 0) return;
  const char *text = nullptr;
  const bool is_driver = function[0] == 'c' && function[2] != 'b'; /* cu..., not cublasLt... */
  if (is_driver && status == OUT_OF_MEMORY) throw std::bad_alloc();
  if (is_driver) library().cuGetErrorString(status, &text);
  throw std::runtime_error(std::string(function) + " failed with status " + std::to_string(status) +
                           (text != nullptr ? std::string(": ") + text : std::string()));
}

Context context_of(int device) {
  int handle = 0;
  Context context = nullptr;
  CNCLIP_CUDA(cuDeviceGet, &handle, device);
  CNCLIP_CUDA(cuDevicePrimaryCtxRetain, &context, handle); /* never released: torch also keeps it */
  return context;
}

void PinnedMemory::reserve(std::size_t bytes) {
  if (bytes <= bytes_) return;
  release();
  CNCLIP_CUDA(cuMemHostAlloc, &data_, bytes, 0);
  bytes_ = bytes;
}

void PinnedMemory::release() {
  if (data_ != nullptr) library().cuMemFreeHost(data_);
  data_ = nullptr;
  bytes_ = 0;
}

}  // namespace cnclip_cuda
