#include "kernels/linear.h"

#if defined(__x86_64__)

/* Processors of AVX-512 VNNI need not have the form of AVX-VNNI. Tests compile this file with
 * theirs, and run it there. */
#if defined(CNCLIP_VNNI_EVEX)
#define VNNI_FORM "%{evex%} "
#define LINEAR_NAME(part) cnclip_linear_##part##_int8_evex
#else
#define VNNI_FORM "%{vex%} "
#define LINEAR_NAME(part) cnclip_linear_##part##_int8_avx_vnni
#endif

#define LINEAR_IS_INT8
#include "kernels/dot_int8_avx_vnni.h"
#include "kernels/linear_float.inc.h"

#endif
