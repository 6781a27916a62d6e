#include "kernels/linear.h"

#if defined(__aarch64__)

#include "kernels/dot_bf16_neon_bf16.h"

#define LINEAR_IS_BF16
#define LINEAR_NAME(part) cnclip_linear_##part##_bf16_neon_bf16
#include "kernels/linear_float.inc.h"

#endif
