#include "kernels/linear.h"

#if defined(__x86_64__)

#include "kernels/vector_avx2.h"

#define LINEAR_NAME(part) cnclip_linear_##part##_f32_avx2
#include "kernels/linear_float.inc.h"

#endif
