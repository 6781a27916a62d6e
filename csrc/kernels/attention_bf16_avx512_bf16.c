#include "kernels/attention.h"

#if defined(__x86_64__)

#include "kernels/tile_bf16_avx512_bf16.h"

#define ATTENTION_IS_BF16
#define ATTENTION_NAME cnclip_attention_bf16_avx512_bf16
#include "kernels/attention_avx512.inc.h"

#endif
