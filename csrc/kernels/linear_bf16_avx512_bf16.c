#include "kernels/linear.h"

#if defined(__x86_64__)

#include "kernels/tile_bf16_avx512_bf16.h"

#define LINEAR_IS_BF16
#define LINEAR_NAME(part) cnclip_linear_##part##_bf16_avx512_bf16
#include "kernels/linear_avx512.inc.h"

#endif
