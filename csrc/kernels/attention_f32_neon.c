#include "kernels/attention.h"

#if defined(__aarch64__)

#include "kernels/vector_neon.h"

#define ATTENTION_NAME cnclip_attention_f32_neon
#include "kernels/attention_float.inc.h"

#endif
