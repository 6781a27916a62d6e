/* What cpu.c knows of a processor. A separate header, so that tests describe processors that the
 * machine does not have. */
#ifndef CNCLIP_CPU_FEATURES_H
#define CNCLIP_CPU_FEATURES_H

#include "base/cpu.h"

typedef struct {
  /* x86-64: what CPUID reports in leaves 1 and 7, and in subleaf 1 of 7. */
  unsigned leaf_1_ecx, leaf_7_ebx, leaf_7_ecx, leaf_7_1_eax;
  unsigned saved; /* x86-64: XCR0, the registers that the system saves on a context switch */
  bool has_dotprod, has_i8mm, has_bf16; /* ARM64 */
} cnclip_cpu;

/* Whether a processor can run kernels of `isa`, which is one of this architecture or "serial". */
bool cnclip_cpu_runs(const cnclip_cpu *cpu, cnclip_isa isa);

#endif
