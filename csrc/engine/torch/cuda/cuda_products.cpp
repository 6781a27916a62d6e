#include "engine/torch/cuda/cuda_products.hpp"

namespace cnclip_cuda {

/* cuBLASLt's matrices are in column-major order, so our input, weight and output are their
 * transposes there. The weight is transposed back. */
struct Products::Plan {
  BlasObject description = nullptr, weight = nullptr, input = nullptr, output = nullptr;
  BlasChoice choice{};

  Plan() = default;
  Plan(const Plan &) = delete;
  Plan &operator=(const Plan &) = delete;
  ~Plan() {
    if (description != nullptr) library().cublasLtMatmulDescDestroy(description);
    for (BlasObject layout : {weight, input, output}) {
      if (layout != nullptr) library().cublasLtMatrixLayoutDestroy(layout);
    }
  }
};

namespace {

void set(BlasObject description, int attribute, int value) {
  CNCLIP_CUDA(cublasLtMatmulDescSetAttribute, description, attribute, &value, sizeof value);
}

BlasObject new_layout(int type, long rows, long columns) {
  BlasObject layout = nullptr;
  CNCLIP_CUDA(cublasLtMatrixLayoutCreate, &layout, type, static_cast<std::uint64_t>(columns),
              static_cast<std::uint64_t>(rows), columns);
  return layout;
}

}  // namespace

Products::Products(bool is_fp16, Stream stream, DevicePointer workspace,
                   std::size_t workspace_bytes)
    : half_type_(is_fp16 ? TYPE_FLOAT16 : TYPE_BFLOAT16),
      stream_(stream),
      workspace_(workspace),
      workspace_bytes_(workspace_bytes) {
  CNCLIP_CUDA(cublasLtCreate, &blas_);
}

Products::~Products() {
  plans_.clear();
  if (blas_ != nullptr) library().cublasLtDestroy(blas_);
}

Products::Plan &Products::plan_of(const ProductShape &shape) {
  std::unique_ptr<Plan> &kept = plans_[shape];
  if (kept != nullptr) return *kept;
  auto plan = std::make_unique<Plan>();
  CNCLIP_CUDA(cublasLtMatmulDescCreate, &plan->description, COMPUTE_FLOAT32, TYPE_FLOAT32);
  set(plan->description, DESCRIPTION_TRANSPOSE_A, TRANSPOSED);
  if (shape.has_bias) set(plan->description, DESCRIPTION_EPILOGUE, EPILOGUE_BIAS);
  plan->weight = new_layout(half_type_, shape.outputs, shape.inputs);
  plan->input = new_layout(half_type_, shape.rows, shape.inputs);
  plan->output = new_layout(shape.to_float ? TYPE_FLOAT32 : half_type_, shape.rows, shape.outputs);

  BlasObject preference = nullptr;
  CNCLIP_CUDA(cublasLtMatmulPreferenceCreate, &preference);
  int found = 0;
  int status = library().cublasLtMatmulPreferenceSetAttribute(
      preference, PREFERENCE_MAX_WORKSPACE_BYTES, &workspace_bytes_, sizeof workspace_bytes_);
  if (status == 0) {
    status = library().cublasLtMatmulAlgoGetHeuristic(blas_, plan->description, plan->weight,
                                                      plan->input, plan->output, plan->output,
                                                      preference, 1, &plan->choice, &found);
  }
  library().cublasLtMatmulPreferenceDestroy(preference);
  check(status, "cublasLtMatmulAlgoGetHeuristic");
  if (found == 0) throw std::runtime_error("cuBLASLt has no algorithm for a product");
  kept = std::move(plan);
  return *kept;
}

void Products::run(const ProductShape &shape, DevicePointer input, DevicePointer weight,
                   DevicePointer bias, DevicePointer output) {
  Plan &plan = plan_of(shape);
  if (shape.has_bias) {
    CNCLIP_CUDA(cublasLtMatmulDescSetAttribute, plan.description, DESCRIPTION_BIAS_POINTER, &bias,
                sizeof bias);
  }
  const float one = 1, beta = shape.adds ? 1.0f : 0.0f;
  CNCLIP_CUDA(cublasLtMatmul, blas_, plan.description, &one, weight, plan.weight, input, plan.input,
              &beta, output, plan.output, output, plan.output, plan.choice.algorithm, workspace_,
              workspace_bytes_, stream_);
}

}  // namespace cnclip_cuda
