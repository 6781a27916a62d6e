#include "kernels/precision.h"

#include <stdio.h>
#include <string.h>

#include "kernels/linear.h"

/* What computes in a precision. On a CPU, all but fp32 need kernels of linear.h; in fp32 the
 * engine's operators do where there are none. */
static const struct {
  const char *name, *needs;
  bool on_gpu, on_cpu;
  cnclip_linear_type type;
} precisions[] = {
    {"fp32", "", true, true, CNCLIP_LINEAR_F32},
    {"bf16", "a GPU, or a processor with AVX-512 BF16, or ARM64 with BF16", true, true,
     CNCLIP_LINEAR_BF16},
    {"int8", "a processor with AVX2, or ARM64 with DotProd", false, true, CNCLIP_LINEAR_INT8},
    {"fp16", "a GPU", true, false, CNCLIP_LINEAR_F16},
};

/* Whether the device computes in precisions[i]. */
static bool computes(size_t i, bool is_cpu, cnclip_isa isa) {
  if (!is_cpu) return precisions[i].on_gpu;
  const cnclip_linear_type type = precisions[i].type;
  return precisions[i].on_cpu &&
         (type == CNCLIP_LINEAR_F32 || cnclip_linear_kernels_get(type, isa) != NULL);
}

/* The precisions of the device: "fp32", "fp32 or int8", "fp32, bf16 or int8". */
static void list_precisions(bool is_cpu, cnclip_isa isa, char *text, size_t bytes) {
  const size_t count = sizeof precisions / sizeof precisions[0];
  size_t last = 0, length = 0;
  for (size_t i = 0; i < count; i++) {
    if (computes(i, is_cpu, isa)) last = i;
  }
  text[0] = '\0';
  for (size_t i = 0; i <= last; i++, length = strlen(text)) {
    if (!computes(i, is_cpu, isa)) continue;
    const char *between = length == 0 ? "" : i == last ? " or " : ", ";
    snprintf(text + length, bytes - length, "%s%s", between, precisions[i].name);
  }
}

cnclip_status cnclip_precision_check(const char *precision, bool is_cpu, cnclip_isa isa,
                                     cnclip_error *error) {
  for (size_t i = 0; i < sizeof precisions / sizeof precisions[0]; i++) {
    if (strcmp(precisions[i].name, precision) != 0) continue;
    if (computes(i, is_cpu, isa)) return CNCLIP_OK;
    char others[64];
    list_precisions(is_cpu, isa, others, sizeof others);
    return cnclip_error_set(error, CNCLIP_ERROR_DEVICE,
                            "precision %s needs %s, and this is %s%s; use %s", precision,
                            precisions[i].needs, is_cpu ? "a processor that runs " : "a GPU",
                            is_cpu ? cnclip_isa_name(isa) : "", others);
  }
  return cnclip_error_set(error, CNCLIP_ERROR_ARGUMENT,
                          "precision: expected fp32, bf16, int8 or fp16, got %s", precision);
}
