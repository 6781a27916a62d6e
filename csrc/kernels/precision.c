#include "kernels/precision.h"

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
    {"bf16", "a GPU, or a processor with AVX-512 BF16", true, true, CNCLIP_LINEAR_BF16},
    {"int8", "a processor with AVX-512 VNNI", false, true, CNCLIP_LINEAR_INT8},
    {"fp16", "a GPU", true, false, CNCLIP_LINEAR_F16},
};

cnclip_status cnclip_precision_check(const char *precision, bool is_cpu, cnclip_isa isa,
                                     cnclip_error *error) {
  for (size_t i = 0; i < sizeof precisions / sizeof precisions[0]; i++) {
    const cnclip_linear_type type = precisions[i].type;
    if (strcmp(precisions[i].name, precision) != 0) continue;
    const bool has_kernels =
        type == CNCLIP_LINEAR_F32 || cnclip_linear_kernels_get(type, isa) != NULL;
    if (is_cpu ? precisions[i].on_cpu && has_kernels : precisions[i].on_gpu) return CNCLIP_OK;
    return cnclip_error_set(error, CNCLIP_ERROR_DEVICE,
                            "precision %s needs %s, and this is %s%s; use fp32", precision,
                            precisions[i].needs, is_cpu ? "a processor that runs " : "a GPU",
                            is_cpu ? cnclip_isa_name(isa) : "");
  }
  return cnclip_error_set(error, CNCLIP_ERROR_ARGUMENT,
                          "precision: expected fp32, bf16, int8 or fp16, got %s", precision);
}
