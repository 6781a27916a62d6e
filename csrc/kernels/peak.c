#define _POSIX_C_SOURCE 199309L /* clock_gettime */
#include "kernels/peak.h"

#include <time.h>

#include "base/cpu.h"

static const char *const names[CNCLIP_PEAK_COUNT] = {
    [CNCLIP_PEAK_FP32] = "fp32",
    [CNCLIP_PEAK_BF16] = "bf16",
    [CNCLIP_PEAK_INT8] = "int8",
};

const char *cnclip_peak_name(cnclip_peak_precision precision) {
  return names[precision];
}

typedef struct {
  cnclip_peak_precision precision;
  cnclip_isa isa; /* the lowest instruction set that runs the kernel */
  cnclip_peak_kernel *run;
  double operations; /* of one multiply-add of whole registers */
} kernel;

/* The fastest kernel of a precision comes first. */
static const kernel kernel_table[] = {
#if defined(__x86_64__)
    {CNCLIP_PEAK_FP32, CNCLIP_ISA_AVX512, cnclip_peak_fp32_avx512, 2 * 16},
    {CNCLIP_PEAK_FP32, CNCLIP_ISA_AVX2, cnclip_peak_fp32_avx2, 2 * 8},
    {CNCLIP_PEAK_BF16, CNCLIP_ISA_AVX512_BF16, cnclip_peak_bf16_avx512, 2 * 32},
    {CNCLIP_PEAK_INT8, CNCLIP_ISA_AVX512_VNNI, cnclip_peak_int8_avx512, 2 * 64},
    {CNCLIP_PEAK_INT8, CNCLIP_ISA_AVX_VNNI, cnclip_peak_int8_avx_vnni, 2 * 32},
    {CNCLIP_PEAK_INT8, CNCLIP_ISA_AVX2, cnclip_peak_int8_avx2, 2 * 16},
#elif defined(__aarch64__)
    {CNCLIP_PEAK_FP32, CNCLIP_ISA_NEON, cnclip_peak_fp32_neon, 2 * 4},
    {CNCLIP_PEAK_BF16, CNCLIP_ISA_NEON_BF16, cnclip_peak_bf16_neon_bf16, 2 * 8},
    {CNCLIP_PEAK_INT8, CNCLIP_ISA_NEON_I8MM, cnclip_peak_int8_neon_i8mm, 2 * 16},
    {CNCLIP_PEAK_INT8, CNCLIP_ISA_NEON_DOTPROD, cnclip_peak_int8_neon_dotprod, 2 * 16},
#endif
    {CNCLIP_PEAK_COUNT, CNCLIP_ISA_SERIAL, NULL, 0},
};

/* NULL where this machine has no instruction for the precision. */
static const kernel *choose(cnclip_peak_precision precision) {
  for (const kernel *k = kernel_table; k->run != NULL; k++) {
    if (k->precision == precision && cnclip_isa_supported(k->isa)) return k;
  }
  return NULL;
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

double cnclip_peak_measure(cnclip_peak_precision precision, double seconds) {
  const size_t rounds = 10000; /* tens of microseconds between looks at the clock */
  const kernel *chosen = choose(precision);
  if (chosen == NULL) return 0;
  chosen->run(rounds); /* the core raises its clock and powers up wide units */
  const double start = now();
  double done = 0, elapsed;
  do {
    chosen->run(rounds);
    done += (double)rounds * CNCLIP_PEAK_ACCUMULATORS * chosen->operations;
    elapsed = now() - start;
  } while (elapsed < seconds);
  return done / elapsed;
}
