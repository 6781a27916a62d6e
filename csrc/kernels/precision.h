/* Which precisions a device computes in. */
#ifndef CNCLIP_PRECISION_H
#define CNCLIP_PRECISION_H

#include <stdbool.h>

#include "base/cpu.h"
#include "base/status.h"

/* precision: "fp32", "bf16", "int8", "fp16"; isa: of the kernels, for a CPU.
 * CNCLIP_ERROR_DEVICE: the device does not compute in it; the message names those it does.
 * CNCLIP_ERROR_ARGUMENT: no precision of this name. */
cnclip_status cnclip_precision_check(const char *precision, bool is_cpu, cnclip_isa isa,
                                     cnclip_error *error);

#endif
