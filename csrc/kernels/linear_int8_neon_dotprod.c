#include "kernels/linear.h"

#if defined(__aarch64__)

#include "kernels/dot_int8_neon_dotprod.h"

#define LINEAR_IS_INT8
#define LINEAR_NAME(part) cnclip_linear_##part##_int8_neon_dotprod
#include "kernels/linear_float.inc.h"

#endif
