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
  cnclip_peak_kernel *run; /* NULL: this machine has no such instruction */
  double operations;       /* of one instruction */
} choice;

#if defined(__x86_64__)
static choice choose(cnclip_peak_precision precision) {
  if (precision == CNCLIP_PEAK_BF16 && cnclip_isa_supported(CNCLIP_ISA_AVX512_BF16)) {
    return (choice){cnclip_peak_bf16_avx512, 2 * 32};
  }
  if (precision == CNCLIP_PEAK_INT8 && cnclip_isa_supported(CNCLIP_ISA_AVX512_VNNI)) {
    return (choice){cnclip_peak_int8_avx512, 2 * 64};
  }
  if (precision == CNCLIP_PEAK_FP32 && cnclip_isa_supported(CNCLIP_ISA_AVX512)) {
    return (choice){cnclip_peak_fp32_avx512, 2 * 16};
  }
  if (precision == CNCLIP_PEAK_FP32 && cnclip_isa_supported(CNCLIP_ISA_AVX2) &&
      __builtin_cpu_supports("fma")) {
    return (choice){cnclip_peak_fp32_avx2, 2 * 8};
  }
  return (choice){0};
}
#else
static choice choose(cnclip_peak_precision precision) {
  (void)precision;
  return (choice){0};
}
#endif

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

double cnclip_peak_measure(cnclip_peak_precision precision, double seconds) {
  const size_t rounds = 10000; /* tens of microseconds between looks at the clock */
  const choice kernel = choose(precision);
  if (kernel.run == NULL) return 0;
  kernel.run(rounds); /* the core raises its clock and powers up wide units */
  const double start = now();
  double done = 0, elapsed;
  do {
    kernel.run(rounds);
    done += (double)rounds * CNCLIP_PEAK_ACCUMULATORS * kernel.operations;
    elapsed = now() - start;
  } while (elapsed < seconds);
  return done / elapsed;
}
