/* The functions of CUDA that cuda_on_host.cpp does not replace: each fails. */
#include "engine/torch/cuda/cuda_library.hpp"

using namespace cnclip_cuda;

#pragma GCC diagnostic ignored "-Wunused-parameter"
#define STUB(name, parameters)                           \
  extern "C" __attribute__((weak)) int name parameters { \
    return 801; /* CUDA_ERROR_NOT_SUPPORTED */           \
  }
CNCLIP_DRIVER_FUNCTIONS(STUB)
CNCLIP_COMPILER_FUNCTIONS(STUB)
CNCLIP_BLAS_FUNCTIONS(STUB)
