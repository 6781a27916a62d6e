#include "kernels/linear.h"

#if defined(__x86_64__)

#include "kernels/vector_avx2.h"

#define LINEAR_IS_F16
#define LINEAR_NAME(part) cnclip_linear_##part##_f16_avx2
#include "kernels/linear_float.inc.h"

#endif
