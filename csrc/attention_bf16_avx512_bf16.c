#include "attention.h"

#if defined(__x86_64__)

#include "tile_bf16_avx512_bf16.h"

#define ATTENTION_IS_BF16
#define ATTENTION_NAME cnclip_attention_bf16_avx512_bf16
#include "attention_avx512.h"

#endif
