#include "engine/torch/cuda/cuda_kernels.hpp"

#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace cnclip_cuda {

namespace {

const char source[] =
#include "cuda_kernels.inc" /* cuda_kernels.cu as a string, which cnclip/engine/build.py writes */
    ;

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

/* Machine code. options: with the architecture, such as sm_90, and the macros of the source. */
std::vector<char> compile(const std::vector<std::string> &options) {
  std::vector<const char *> pointers;
  for (const std::string &option : options) pointers.push_back(option.c_str());
  OwnedProgram owned;
  CNCLIP_CUDA(nvrtcCreateProgram, &owned.program, source, "cuda_kernels.cu", 0, nullptr, nullptr);
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

/* As `compile`, which is called once for towers of the same sizes. */
const std::vector<char> &compiled(const std::vector<std::string> &options) {
  static std::mutex mutex;
  static std::map<std::vector<std::string>, std::vector<char>> kept;
  const std::lock_guard lock(mutex);
  std::vector<char> &image = kept[options];
  if (image.empty()) image = compile(options);
  return image;
}

std::string architecture_of(int device) {
  int handle = 0, major = 0, minor = 0;
  CNCLIP_CUDA(cuDeviceGet, &handle, device);
  CNCLIP_CUDA(cuDeviceGetAttribute, &major, COMPUTE_MAJOR, handle);
  CNCLIP_CUDA(cuDeviceGetAttribute, &minor, COMPUTE_MINOR, handle);
  if (major < 8) throw std::runtime_error("the kernels need a GPU of compute capability 8 or more");
  return "sm_" + std::to_string(major) + std::to_string(minor);
}

}  // namespace

Kernels::Kernels(int device, bool is_fp16, int head_width, int width) {
  const std::vector<char> &image = compiled(
      {"--std=c++17", "--gpu-architecture=" + architecture_of(device),
       "-DCNCLIP_FP16=" + std::to_string(is_fp16), "-DCNCLIP_HEAD=" + std::to_string(head_width),
       "-DCNCLIP_WIDTH=" + std::to_string(width)});
  CNCLIP_CUDA(cuModuleLoadData, &module_, image.data());
  const struct {
    Kernel *kernel;
    const char *name;
  } found[] = {
      {&patches_of_bytes, "patches_of_bytes"},
      {&patches_of_floats, "patches_of_floats"},
      {&normalize, "normalize"},
      {&embed_patches, "embed_patches"},
      {&embed_words, "embed_words"},
      {&gather_rows, "gather_rows"},
      {&unit_rows, "unit_rows"},
      {&activate, "activate"},
      {&attention, "attention"},
  };
  for (const auto &one : found) CNCLIP_CUDA(cuModuleGetFunction, one.kernel, module_, one.name);
  /* Two pairs of a block of 64 keys and one of values, rows padded by 8; 2 bytes each. */
  attention_shared_bytes = 4U * 64U * (static_cast<unsigned>(head_width) + 8U) * 2U;
  CNCLIP_CUDA(cuFuncSetAttribute, attention, MAX_DYNAMIC_SHARED_BYTES,
              static_cast<int>(attention_shared_bytes));
}

Kernels::~Kernels() {
  if (module_ != nullptr) library().cuModuleUnload(module_);
}

}  // namespace cnclip_cuda
