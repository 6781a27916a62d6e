/* How fast one core of this machine multiplies and adds when nothing else is in its way: loops over
 * registers that read no memory. What a model reaches is compared with it (`cnclip bench`). */
#ifndef CNCLIP_PEAK_H
#define CNCLIP_PEAK_H

#include <stddef.h>

typedef enum {
  CNCLIP_PEAK_FP32 = 0, /* vfmadd231ps, of 512 bits, or of 256 without AVX-512; fmla */
  CNCLIP_PEAK_BF16,     /* vdpbf16ps; bfdot */
  CNCLIP_PEAK_INT8,     /* vpdpbusd, of 512 bits, or of 256 with AVX-VNNI; else vpmaddwd and vpaddd;
                           usdot, or sdot without I8MM */
  CNCLIP_PEAK_COUNT,
} cnclip_peak_precision;

/* "fp32", "bf16", "int8". Borrowed, static. */
const char *cnclip_peak_name(cnclip_peak_precision precision);

/* Computes on the calling thread for about `seconds` and returns operations per second, a
 * multiply-add counted as two. 0 if this machine has no instruction for the precision, whatever
 * CNCLIP_FORCE_ISA says. Thread-safe: run it on several threads at once for several cores. */
double cnclip_peak_measure(cnclip_peak_precision precision, double seconds);

/* Kernels: each executes CNCLIP_PEAK_ACCUMULATORS independent multiply-adds of whole registers,
 * `rounds` times: enough to hide the latency of two such instructions per cycle. */
enum { CNCLIP_PEAK_ACCUMULATORS = 12 };
typedef void cnclip_peak_kernel(size_t rounds);

cnclip_peak_kernel cnclip_peak_fp32_avx2, cnclip_peak_int8_avx2, cnclip_peak_int8_avx_vnni,
    cnclip_peak_fp32_avx512, cnclip_peak_bf16_avx512, cnclip_peak_int8_avx512,
    cnclip_peak_fp32_neon, cnclip_peak_int8_neon_dotprod, cnclip_peak_int8_neon_i8mm,
    cnclip_peak_bf16_neon_bf16;

#endif
