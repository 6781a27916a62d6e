#include "kernels/linear.h"

#if defined(__x86_64__)

#include "kernels/dot_int8_avx2.h"

#define LINEAR_IS_INT8
#define LINEAR_NAME(part) cnclip_linear_##part##_int8_avx2
#include "kernels/linear_float.inc.h"

#endif
