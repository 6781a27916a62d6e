/* Matrix products on a GPU by cuBLASLt. */
#ifndef CNCLIP_CUDA_PRODUCTS_HPP
#define CNCLIP_CUDA_PRODUCTS_HPP

#include <compare>
#include <map>
#include <memory>

#include "engine/torch/cuda/cuda_library.hpp"

namespace cnclip_cuda {

/* output[rows, outputs] = input[rows, inputs] weight[outputs, inputs]^T (+ bias) (+ output), rows
 * contiguous, sums in float32. */
struct ProductShape {
  long rows;
  int inputs, outputs;
  bool has_bias;
  bool adds;     /* to the values of the output */
  bool to_float; /* the output is float32 */

  auto operator<=>(const ProductShape &) const = default;
};

/* The products on one stream. An algorithm is chosen at the first product of a shape. */
class Products {
 public:
  /* workspace: memory of the GPU. */
  Products(bool is_fp16, Stream stream, DevicePointer workspace, std::size_t workspace_bytes);
  ~Products();
  Products(const Products &) = delete;
  Products &operator=(const Products &) = delete;

  /* Queues a product. The first of a shape must not be captured in a graph. */
  void run(const ProductShape &shape, DevicePointer input, DevicePointer weight, DevicePointer bias,
           DevicePointer output);

 private:
  struct Plan;
  Plan &plan_of(const ProductShape &shape);

  int half_type_;
  Stream stream_;
  DevicePointer workspace_;
  std::size_t workspace_bytes_;
  Blas blas_ = nullptr;
  std::map<ProductShape, std::unique_ptr<Plan>> plans_;
};

}  // namespace cnclip_cuda

#endif
