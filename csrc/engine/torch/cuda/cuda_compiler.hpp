/* Compiles the .cu files of this folder by NVRTC, at run time, for the GPU of this machine. */
#ifndef CNCLIP_CUDA_COMPILER_HPP
#define CNCLIP_CUDA_COMPILER_HPP

#include <string>
#include <vector>

#include "engine/torch/cuda/cuda_library.hpp"

namespace cnclip_cuda {

enum class Source { KERNELS, HOPPER, RESIZE };

struct Capability {
  int major, minor;
  std::string architecture() const; /* sm_90 */
};

Capability capability_of(int device);

/* attribute: a CUdevice_attribute. */
int attribute_of(int device, int attribute);

/* A module that is loaded into the current context. The destructor unloads it, whichever context is
 * current then. */
class LoadedModule {
 public:
  /* Compiles the source, which takes a second, unless it was compiled with the same values before.
   * options: the architecture, such as --gpu-architecture=sm_90, and macros.
   * std::runtime_error: the compiler does not know the architecture. */
  LoadedModule(Source source, std::vector<std::string> options);
  ~LoadedModule();
  LoadedModule(const LoadedModule &) = delete;
  LoadedModule &operator=(const LoadedModule &) = delete;

  Kernel kernel(const char *name) const;

 private:
  Context context_ = nullptr;
  Module module_ = nullptr;
};

}  // namespace cnclip_cuda

#endif
