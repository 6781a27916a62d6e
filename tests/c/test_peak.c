#include "kernels/peak.h"

#include <math.h>
#include <string.h>

#include "base/cpu.h"
#include "check.h"

static void test_names(void) {
  CHECK(strcmp(cnclip_peak_name(CNCLIP_PEAK_FP32), "fp32") == 0);
  CHECK(strcmp(cnclip_peak_name(CNCLIP_PEAK_BF16), "bf16") == 0);
  CHECK(strcmp(cnclip_peak_name(CNCLIP_PEAK_INT8), "int8") == 0);
}

/* That a rate comes out where there is an instruction, and none elsewhere; not how large it is. */
static void test_rates(void) {
#if defined(__aarch64__)
  const cnclip_isa needed[] = {CNCLIP_ISA_NEON, CNCLIP_ISA_NEON_BF16, CNCLIP_ISA_NEON_DOTPROD};
#else
  const cnclip_isa needed[] = {CNCLIP_ISA_AVX2, CNCLIP_ISA_AVX512_BF16, CNCLIP_ISA_AVX2};
#endif
  for (int precision = 0; precision < CNCLIP_PEAK_COUNT; precision++) {
    const double rate = cnclip_peak_measure((cnclip_peak_precision)precision, 1e-3);
    CHECK(isfinite(rate) && (rate > 0) == cnclip_isa_supported(needed[precision]));
  }
}

int main(void) {
  test_names();
  test_rates();
  return check_summary("peak");
}
