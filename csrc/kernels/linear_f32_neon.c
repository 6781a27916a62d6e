#include "kernels/linear.h"

#if defined(__aarch64__)

#include "kernels/vector_neon.h"

#define LINEAR_NAME(part) cnclip_linear_##part##_f32_neon
#include "kernels/linear_float.inc.h"

#endif
