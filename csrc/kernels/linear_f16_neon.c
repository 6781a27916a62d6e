#include "kernels/linear.h"

#if defined(__aarch64__)

#include "kernels/vector_neon.h"

#define LINEAR_IS_F16
#define LINEAR_NAME(part) cnclip_linear_##part##_f16_neon
#include "kernels/linear_float.inc.h"

#endif
