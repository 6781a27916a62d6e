/* What this processor can run.
 *
 * Kernels exist once per instruction set; a kernel table (cnclip_image_kernels_get) is chosen by
 * the value that this module returns. CNCLIP_FORCE_ISA in the environment chooses a lower one. */
#ifndef CNCLIP_CPU_H
#define CNCLIP_CPU_H

#include <stdbool.h>

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Of each architecture, in rising order of speed. What a set includes: cnclip_isa_includes. */
typedef enum {
  CNCLIP_ISA_SERIAL = 0, /* plain C, every platform */
  CNCLIP_ISA_AVX2,     /* x86-64 with AVX2, FMA and F16C, and a system that saves their registers */
  CNCLIP_ISA_AVX_VNNI, /* AVX2 and AVX-VNNI: Intel's processors without AVX-512 since 2021 */
  CNCLIP_ISA_AVX512,   /* AVX2 and AVX-512 F, BW, DQ, VL */
  CNCLIP_ISA_AVX512_VNNI,
  CNCLIP_ISA_AVX512_BF16,  /* VNNI and BF16: every processor that has BF16 has VNNI */
  CNCLIP_ISA_NEON,         /* ARM64: every processor has it */
  CNCLIP_ISA_NEON_DOTPROD, /* NEON and DotProd: Armv8.4, Neoverse N1, Apple M1 */
  CNCLIP_ISA_NEON_I8MM,    /* DotProd and I8MM: Armv8.6, Neoverse V1 and N2, Apple M2 */
  CNCLIP_ISA_NEON_BF16,    /* I8MM and BF16: Armv8.6 has both */
  CNCLIP_ISA_COUNT,
} cnclip_isa;

/* "serial", "avx2", "avx_vnni", "avx512", "avx512_vnni", "avx512_bf16", "neon", "neon_dotprod",
 * "neon_i8mm", "neon_bf16": the names that CNCLIP_FORCE_ISA takes. Borrowed, static. */
const char *cnclip_isa_name(cnclip_isa isa);

/* Whether a machine that runs kernels of `isa` runs those of `other`. */
bool cnclip_isa_includes(cnclip_isa isa, cnclip_isa other);

/* Whether this machine can run kernels of `isa`. Thread-safe. */
bool cnclip_isa_supported(cnclip_isa isa);

/* The fastest supported one or, if CNCLIP_FORCE_ISA is set and not empty, the one it names. A name
 * that does not exist, or that this machine cannot run, is CNCLIP_ERROR_ARGUMENT. Reads the
 * environment at each call, so call it once per object. */
cnclip_status cnclip_isa_choose(cnclip_isa *ret_isa, cnclip_error *error);

#ifdef __cplusplus
}
#endif

#endif
