#include "engine/torch/cuda/cuda_compiler.hpp"

#include <map>
#include <mutex>
#include <utility>

namespace cnclip_cuda {

namespace {

/* The sources as strings, which cnclip/engine/build.py writes. */
const char kernels_source[] =
#include "cuda_kernels.inc"
    ;
const char hopper_source[] =
#include "cuda_hopper.inc"
    ;
const char resize_source[] =
#include "cuda_resize.inc"
    ;

const char *text_of(Source source) {
  switch (source) {
    case Source::KERNELS:
      return kernels_source;
    case Source::HOPPER:
      return hopper_source;
    default:
      return resize_source;
  }
}

/* A program of NVRTC, destroyed with this object. */
struct OwnedProgram {
  Program program = nullptr;
  ~OwnedProgram() {
    if (program != nullptr) library().nvrtcDestroyProgram(&program);
  }
};

std::string log_of(Program program) {
  std::size_t bytes = 0;
  CNCLIP_CUDA(nvrtcGetProgramLogSize, program, &bytes);
  std::string log(bytes, '\0');
  CNCLIP_CUDA(nvrtcGetProgramLog, program, log.data());
  return log;
}

/* Machine code. */
std::vector<char> compile(const char *source, const std::vector<std::string> &options) {
  std::vector<const char *> pointers;
  for (const std::string &option : options) pointers.push_back(option.c_str());
  OwnedProgram owned;
  CNCLIP_CUDA(nvrtcCreateProgram, &owned.program, source, "cnclip.cu", 0, nullptr, nullptr);
  if (library().nvrtcCompileProgram(owned.program, static_cast<int>(pointers.size()),
                                    pointers.data()) != 0) {
    throw std::runtime_error("the kernels cannot be compiled: " + log_of(owned.program));
  }
  std::size_t bytes = 0;
  CNCLIP_CUDA(nvrtcGetCUBINSize, owned.program, &bytes);
  std::vector<char> image(bytes);
  CNCLIP_CUDA(nvrtcGetCUBIN, owned.program, image.data());
  return image;
}

/* Calls `compile` once for each source and options, and keeps the machine code. */
const std::vector<char> &compiled(Source source, const std::vector<std::string> &options) {
  static std::mutex mutex;
  static std::map<std::pair<Source, std::vector<std::string>>, std::vector<char>> kept;
  const std::lock_guard lock(mutex);
  std::vector<char> &image = kept[{source, options}];
  if (image.empty()) {
    image = compile(text_of(source), options);
  }
  return image;
}

}  // namespace

std::string Capability::architecture() const {
  return "sm_" + std::to_string(major) + std::to_string(minor);
}

int attribute_of(int device, int attribute) {
  int handle = 0, value = 0;
  CNCLIP_CUDA(cuDeviceGet, &handle, device);
  CNCLIP_CUDA(cuDeviceGetAttribute, &value, attribute, handle);
  return value;
}

Capability capability_of(int device) {
  return {attribute_of(device, COMPUTE_MAJOR), attribute_of(device, COMPUTE_MINOR)};
}

LoadedModule::LoadedModule(Source source, std::vector<std::string> options) {
  options.emplace_back("--std=c++17");
  CNCLIP_CUDA(cuCtxGetCurrent, &context_);
  CNCLIP_CUDA(cuModuleLoadData, &module_, compiled(source, options).data());
}

LoadedModule::~LoadedModule() {
  /* At the end of the process and in a forked one there is no driver to unload it. */
  if (library().cuCtxPushCurrent_v2(context_) != 0) return;
  library().cuModuleUnload(module_);
  Context popped;
  library().cuCtxPopCurrent_v2(&popped);
}

Kernel LoadedModule::kernel(const char *name) const {
  Kernel kernel = nullptr;
  CNCLIP_CUDA(cuModuleGetFunction, &kernel, module_, name);
  return kernel;
}

}  // namespace cnclip_cuda
