#include "kernels/attention.h"

#if defined(__x86_64__)

#include "kernels/vector_avx2.h"

#define ATTENTION_NAME cnclip_attention_f32_avx2
#include "kernels/attention_float.inc.h"

#endif
