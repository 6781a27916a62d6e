#include "kernels/attention.h"

#if defined(__aarch64__)

#include "kernels/dot_bf16_neon_bf16.h"

#define ATTENTION_IS_BF16
#define ATTENTION_NAME cnclip_attention_bf16_neon_bf16
#include "kernels/attention_float.inc.h"

#endif
