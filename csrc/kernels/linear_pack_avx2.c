#include "kernels/linear.h"

#if defined(__x86_64__)

#include "kernels/vector_avx2.h"

#define PACK_NAME cnclip_linear_pack_avx2
#define PACKS_BF16 0
#include "kernels/linear_pack_float.inc.h"

#endif
