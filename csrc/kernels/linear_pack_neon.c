#include "kernels/linear.h"

#if defined(__aarch64__)

#include "kernels/vector_neon.h"

#define PACK_NAME cnclip_linear_pack_neon
#define PACKS_BF16 1
#include "kernels/linear_pack_float.inc.h"

#endif
