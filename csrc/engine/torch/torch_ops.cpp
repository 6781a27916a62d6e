/* The operators that a model's graph calls: linear layers with the operations around them, and
 * attention of items without padding. A kernel of linear.h or attention.h computes them where there
 * is one; elsewhere torch's operators do. Whether a linear layer uses kernels depends on its
 * weight: pack_linear returns a packed one, of one dimension, where there are kernels. */
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <iterator>
#include <optional>
#include <string_view>

#include "engine/torch/torch_guard.hpp"

using cnclip_torch::activation_of;
using cnclip_torch::core;
using cnclip_torch::model_isa;
using cnclip_torch::threads_vary;

namespace {

size_t to_size(int64_t value) {
  return static_cast<size_t>(value);
}

at::Tensor empty_bytes(size_t bytes) {
  return at::empty({static_cast<int64_t>(bytes)}, at::TensorOptions().dtype(at::kByte));
}

/* A packed weight's dtype encodes its kernel type, which is its index here. */
constexpr at::ScalarType packed_dtypes[] = {at::kFloat, at::kHalf, at::kBFloat16, at::kChar};
static_assert(CNCLIP_LINEAR_F32 == 0 && CNCLIP_LINEAR_F16 == 1 && CNCLIP_LINEAR_BF16 == 2 &&
              CNCLIP_LINEAR_INT8 == 3);

cnclip_linear_type type_of(at::ScalarType dtype) {
  const auto *const end = std::end(packed_dtypes);
  const auto *const found = std::find(std::begin(packed_dtypes), end, dtype);
  TORCH_CHECK(found != end, "a packed weight of type ", dtype);
  return static_cast<cnclip_linear_type>(found - packed_dtypes);
}

/* The instruction set of the kernels that operators on this thread use: outside of a model's run,
 * the one that the core chooses. */
cnclip_isa current_isa() {
  if (model_isa.has_value()) return *model_isa;
  cnclip_isa isa;
  cnclip_error error;
  TORCH_CHECK(core->isa_choose(&isa, &error) == CNCLIP_OK, error.message);
  return isa;
}

/* Runs body(first, last) over all of 0..count on libtorch's threads, each of which takes the next
 * part when it has finished one: on a machine with other work, threads are not equally fast. */
template <typename Body>
void parallel_parts(size_t count, size_t parts_per_thread, Body body) {
  const size_t threads = to_size(at::get_num_threads()), parts = threads * parts_per_thread;
  const size_t part = (count + parts - 1) / parts;
  std::atomic<size_t> next{0};
  at::parallel_for(0, static_cast<int64_t>(std::min(threads, count)), 1, [&](int64_t, int64_t) {
    for (size_t first = next.fetch_add(part); first < count; first = next.fetch_add(part)) {
      body(first, std::min(first + part, count));
    }
  });
}

/* pack_linear(Tensor(a!) weight, str precision) -> Tensor(a!): packs float [out, in] for `linear`.
 * The caller no longer uses the weight: its memory, if nothing else shares it, may become the
 * result's. In fp32, float16 weights keep their size; the kernels widen them as they read them. */
at::Tensor pack_linear(const at::Tensor &weight, std::string_view precision) {
  TORCH_CHECK(weight.dim() == 2 && weight.is_floating_point(),
              "pack_linear: expected a weight of floats with two dimensions");
  const bool is_f16 = weight.scalar_type() == at::kHalf;
  const auto type = precision == "bf16"   ? CNCLIP_LINEAR_BF16
                    : precision == "int8" ? CNCLIP_LINEAR_INT8
                    : is_f16              ? CNCLIP_LINEAR_F16
                                          : CNCLIP_LINEAR_F32;
  const cnclip_linear_kernels *kernels = core->linear_kernels_get(type, current_isa());
  const size_t in = to_size(weight.size(1)), out = to_size(weight.size(0));
  if (!weight.is_cpu() || !core->linear_fits(in, out) || kernels == nullptr) {
    return weight.to(precision == "bf16"   ? at::kBFloat16
                     : precision == "fp16" ? at::kHalf
                                           : at::kFloat);
  }
  const at::Tensor source = (is_f16 ? weight : weight.to(at::kFloat)).contiguous();
  const at::ScalarType dtype = packed_dtypes[type];
  const auto bytes = static_cast<int64_t>(core->linear_packed_bytes(type, in, out));
  const bool in_place =
      core->linear_packs_in_place(type, is_f16, out) && source.storage().use_count() == 1 &&
      reinterpret_cast<uintptr_t>(source.const_data_ptr()) % CNCLIP_LINEAR_ALIGNMENT == 0;
  at::Tensor packed;
  if (in_place) {
    packed = source.view({-1}).view(dtype);
  } else {
    packed = at::empty({bytes / static_cast<int64_t>(at::elementSize(dtype))},
                       at::TensorOptions().dtype(dtype));
  }
  const cnclip_linear_packing packing{
      type, in, out, source.const_data_ptr(), is_f16, packed.data_ptr()};
  const auto panels = static_cast<int64_t>(core->linear_panel_count(out));
  const size_t scratch_bytes = core->linear_pack_scratch_bytes(type, in);
  at::parallel_for(0, panels, 1, [&](int64_t first, int64_t last) {
    const at::Tensor scratch = empty_bytes(scratch_bytes);
    kernels->pack(&packing, to_size(first), to_size(last), scratch.data_ptr());
  });
  return packed;
}

/* gelu of a matrix. On CPUs oneDNN computes it, which keeps compiled code for each of the last
 * 1,024 shapes, 200 KB each. Rows are computed in three parts, multiples of 256, of 16 and the
 * rest, so that batches of all lengths need a few dozen shapes. */
at::Tensor gelu_of_rows(const at::Tensor &x, std::string_view approximate) {
  if (!x.is_cpu() || x.requires_grad()) return at::gelu(x, approximate);
  at::Tensor output = at::empty_like(x);
  int64_t first = 0;
  for (const int64_t unit : {256, 16, 1}) {
    const int64_t count = (x.size(0) - first) / unit * unit;
    if (count == 0) continue;
    at::Tensor part = output.narrow(0, first, count);
    at::gelu_out(part, x.narrow(0, first, count), approximate);
    first += count;
  }
  return output;
}

at::Tensor activated(const at::Tensor &x, cnclip_activation activation) {
  switch (activation) {
    case CNCLIP_ACTIVATION_RELU:
      return x.relu();
    case CNCLIP_ACTIVATION_GELU:
      return gelu_of_rows(x, "none");
    case CNCLIP_ACTIVATION_GELU_TANH:
      return gelu_of_rows(x, "tanh");
    case CNCLIP_ACTIVATION_SWISH:
      return x * x.sigmoid();
    case CNCLIP_ACTIVATION_QUICK_GELU:
      return x * (x * 1.702).sigmoid();
    case CNCLIP_ACTIVATION_NONE:
    default:
      return x;
  }
}

using OptionalTensor = std::optional<at::Tensor>;

/* The arguments of the operator `linear`. */
struct LinearCall {
  const at::Tensor &x, &weight;
  const OptionalTensor &bias;
  int64_t first, last;
  const OptionalTensor &norm_weight, &norm_bias;
  double eps;
  std::string_view activation;
  const OptionalTensor &residual;
};

/* Where the number of threads varies, rows with zeros below, up to a multiple of four; else `rows`.
 *
 * Where each thread has few rows, MKL computes those beyond a multiple of four by a kernel that
 * depends on the number of threads. Whole groups of four have the same bits with any number. */
at::Tensor in_whole_groups(const at::Tensor &rows) {
  constexpr int64_t group = 4;
  const int64_t count = rows.size(0), missing = (group - count % group) % group;
  const bool are_few = count > group && count < group * (at::get_num_threads() + 1);
  if (!threads_vary || missing == 0 || !are_few) return rows;
  at::Tensor padded = at::empty({count + missing, rows.size(1)}, rows.options());
  padded.narrow(0, 0, count).copy_(rows);
  padded.narrow(0, count, missing).zero_();
  return padded;
}

/* By torch's operators, for a weight that is not packed. */
at::Tensor plain_linear(const LinearCall &call) {
  at::Tensor input = call.x;
  if (call.norm_weight.has_value()) {
    input = at::layer_norm(input.to(call.norm_weight->scalar_type()), {input.size(1)},
                           call.norm_weight, call.norm_bias, call.eps);
  }
  const at::ScalarType dtype = call.weight.scalar_type();
  OptionalTensor offsets;
  if (call.bias.has_value()) offsets = call.bias->slice(0, call.first, call.last).to(dtype);
  const at::Tensor product = at::linear(in_whole_groups(input.to(dtype)),
                                        call.weight.slice(0, call.first, call.last), offsets)
                                 .narrow(0, 0, input.size(0));
  const at::Tensor output = activated(product, activation_of(call.activation));
  return call.residual.has_value() ? *call.residual + output : output;
}

/* Rows of floats or bfloat16 in the layout that the kernels read. */
at::Tensor as_rows(const at::Tensor &x, bool allow_bf16) {
  const bool taken =
      x.scalar_type() == at::kFloat || (allow_bf16 && x.scalar_type() == at::kBFloat16);
  const at::Tensor rows = taken ? x : x.to(at::kFloat);
  return rows.stride(1) == 1 ? rows : rows.contiguous();
}

/* [rows, columns]. The row stride is never a multiple of 4 KiB: such rows would all map to the same
 * cache sets. */
at::Tensor empty_rows(int64_t rows, int64_t columns, at::ScalarType dtype) {
  const auto size = static_cast<int64_t>(at::elementSize(dtype));
  const int64_t stride = columns * size % 4096 == 0 ? columns + 64 / size : columns;
  const at::Tensor whole = at::empty({rows, stride}, at::TensorOptions().dtype(dtype));
  return whole.narrow(1, 0, columns);
}

const float *floats_of(const OptionalTensor &vector, int64_t count) {
  if (!vector.has_value()) return nullptr;
  TORCH_CHECK(vector->scalar_type() == at::kFloat && vector->is_contiguous() && vector->is_cpu() &&
                  vector->numel() == count,
              "linear: expected ", count, " contiguous floats on the CPU");
  return vector->const_data_ptr<float>();
}

/* The number of output columns in the panels of a packed weight. */
int64_t packed_columns(const at::Tensor &weight, cnclip_linear_type type, int64_t input_width) {
  TORCH_CHECK(
      weight.is_cpu() && weight.is_contiguous() &&
          reinterpret_cast<uintptr_t>(weight.const_data_ptr()) % CNCLIP_LINEAR_ALIGNMENT == 0,
      "linear: expected a packed weight from pack_linear");
  TORCH_CHECK(core->linear_fits(to_size(input_width), CNCLIP_LINEAR_PANEL),
              "linear: a packed weight does not allow an input of ", input_width, " columns");
  const size_t panel = core->linear_packed_bytes(type, to_size(input_width), CNCLIP_LINEAR_PANEL);
  TORCH_CHECK(weight.nbytes() % panel == 0,
              "linear: the packed weight's width is not the input's, ", input_width);
  return static_cast<int64_t>(weight.nbytes() / panel * CNCLIP_LINEAR_PANEL);
}

/* Whether the product with a packed weight of this type is bfloat16. */
bool gives_bf16(cnclip_linear_type type, bool has_residual) {
  const bool is_narrow = type == CNCLIP_LINEAR_BF16 || type == CNCLIP_LINEAR_INT8;
  return is_narrow && !has_residual &&
         core->attention_kernel_get(CNCLIP_ATTENTION_BF16, current_isa()) != nullptr;
}

/* The kernels' job for columns panel..call.last of the output, except its operand. The tensors
 * outlive it. */
cnclip_linear_job linear_job(const LinearCall &call, cnclip_linear_type type, int64_t panel,
                             const at::Tensor &input, const OptionalTensor &residual,
                             const at::Tensor &output) {
  const int64_t in = input.size(1);
  cnclip_linear_job job{};
  job.type = type;
  job.activation = activation_of(call.activation);
  job.rows = to_size(input.size(0));
  job.input_width = to_size(in);
  job.output_width = to_size(packed_columns(call.weight, type, in));
  job.first_column = to_size(panel);
  job.columns = to_size(call.last - panel);
  job.weight = call.weight.const_data_ptr();
  job.bias = call.bias.has_value() ? floats_of(call.bias, call.bias->numel()) + panel : nullptr;
  job.input = input.const_data_ptr();
  job.input_stride = to_size(input.stride(0));
  job.input_is_bf16 = input.scalar_type() == at::kBFloat16;
  job.norm_weight = floats_of(call.norm_weight, in);
  job.norm_bias = floats_of(call.norm_bias, in);
  job.norm_epsilon = static_cast<float>(call.eps);
  job.residual = residual.has_value() ? residual->const_data_ptr<float>() : nullptr;
  job.residual_stride = residual.has_value() ? to_size(residual->stride(0)) : 0;
  job.output = output.data_ptr();
  job.output_stride = to_size(output.stride(0));
  job.output_is_bf16 = output.scalar_type() == at::kBFloat16;
  return job;
}

void run_linear(cnclip_linear_job *job, const cnclip_linear_kernels *kernels) {
  at::Tensor operand;
  if (const size_t bytes = core->linear_operand_bytes(job); bytes > 0) {
    operand = empty_bytes(bytes);
    job->operand = operand.data_ptr();
    at::parallel_for(0, static_cast<int64_t>(job->rows), 16, [&](int64_t begin, int64_t end) {
      kernels->rows(job, to_size(begin), to_size(end));
    });
  }
  /* With few rows, reading the weights dominates; that is fastest in one contiguous piece per
   * thread. */
  const size_t parts_per_thread = job->rows < 64 ? 1 : 8;
  parallel_parts(core->linear_unit_count(job), parts_per_thread,
                 [&](size_t begin, size_t end) { kernels->units(job, begin, end); });
}

/* By our kernels, for a packed weight. */
at::Tensor packed_linear(const LinearCall &call) {
  TORCH_CHECK(!(at::GradMode::is_enabled() && call.x.requires_grad()),
              "linear: packed weights have no gradients");
  const cnclip_linear_type type = type_of(call.weight.scalar_type());
  const cnclip_linear_kernels *kernels = core->linear_kernels_get(type, current_isa());
  TORCH_CHECK(kernels != nullptr, "linear: the weight is packed for another machine");
  const int64_t first = call.first, last = call.last;
  const int64_t out = packed_columns(call.weight, type, call.x.size(1));
  TORCH_CHECK(0 <= first && first < last && last <= out, "linear: no columns ", first, " to ", last,
              " of ", out);
  /* Whole panels: the columns from the panel's first to the first wanted are computed too. */
  const int64_t panel = first / CNCLIP_LINEAR_PANEL * CNCLIP_LINEAR_PANEL;
  TORCH_CHECK(panel == first || !call.residual.has_value(),
              "linear: a residual needs a first column that begins a panel");

  const at::Tensor input = as_rows(call.x, true);
  const auto dtype = gives_bf16(type, call.residual.has_value()) ? at::kBFloat16 : at::kFloat;
  const at::Tensor output = empty_rows(input.size(0), last - panel, dtype);
  OptionalTensor residual;
  if (call.residual.has_value()) {
    TORCH_CHECK(call.residual->sizes() == output.sizes(), "linear: a residual of another size");
    residual = as_rows(*call.residual, false);
  }
  if (call.bias.has_value()) {
    TORCH_CHECK(call.bias->numel() >= last, "linear: a bias of another size");
  }
  cnclip_linear_job job = linear_job(call, type, panel, input, residual, output);
  run_linear(&job, kernels);
  return panel == first ? output : output.narrow(1, first - panel, last - first);
}

/* linear(...) -> Tensor: columns first..last of
 *   activation(layer_norm(x, norm_weight, norm_bias, eps) weight^T + bias) + residual
 * x: [rows, in]. weight: [out, in], or the result of pack_linear. bias: [out]. residual:
 * [rows, last - first]. The result is bfloat16 for packed bf16 and int8 weights without a residual
 * on machines with an attention kernel for bfloat16. */
at::Tensor linear(const at::Tensor &x, const at::Tensor &weight, const OptionalTensor &bias,
                  int64_t first, int64_t last, const OptionalTensor &norm_weight,
                  const OptionalTensor &norm_bias, double eps, std::string_view activation,
                  const OptionalTensor &residual) {
  TORCH_CHECK(x.dim() == 2, "linear: expected rows, a tensor of two dimensions");
  TORCH_CHECK(norm_weight.has_value() == norm_bias.has_value(),
              "linear: norm_weight requires norm_bias and vice versa");
  const LinearCall call{x,           weight,    bias, first,      last,
                        norm_weight, norm_bias, eps,  activation, residual};
  return weight.dim() == 1 ? packed_linear(call) : plain_linear(call);
}

/* Whether all items have one length; *ret_length: the first item's. */
bool equal_lengths(const at::Tensor &starts, int64_t *ret_length) {
  const int64_t *bounds = starts.const_data_ptr<int64_t>();
  *ret_length = bounds[1] - bounds[0];
  for (int64_t i = 1; i + 1 < starts.numel(); i++) {
    if (bounds[i + 1] - bounds[i] != *ret_length) return false;
  }
  return true;
}

/* [items, longest]: the row numbers of each item, continued past the end of shorter items. */
at::Tensor row_numbers(const at::Tensor &starts, const at::Tensor &lengths, int64_t rows) {
  const at::Tensor places = at::arange(lengths.max().item<int64_t>(), starts.options());
  return (starts.slice(0, 0, -1).unsqueeze(1) + places).clamp_max(rows - 1);
}

/* The arguments of the operator `attention`. */
struct AttentionCall {
  const at::Tensor &query, &key, &value;
  int64_t heads;
  const at::Tensor &query_starts, &key_starts;
};

/* Items of different lengths: padded to the longest, masked, and cut again. */
at::Tensor padded_attention(const AttentionCall &call, int64_t items) {
  const int64_t width = call.query.size(1);
  const c10::Device device = call.query.device();
  const at::Tensor query_lengths = call.query_starts.diff(), key_lengths = call.key_starts.diff();
  const at::Tensor query_rows = row_numbers(call.query_starts, query_lengths, call.query.size(0));
  const at::Tensor key_rows = row_numbers(call.key_starts, key_lengths, call.key.size(0));
  const auto valid = [](const at::Tensor &rows, const at::Tensor &lengths) {
    return at::arange(rows.size(1), rows.options()) < lengths.unsqueeze(1);
  };
  const auto by_head = [&](const at::Tensor &rows, const at::Tensor &numbers) {
    return rows.index_select(0, numbers.flatten().to(device))
        .reshape({items, -1, call.heads, width / call.heads})
        .transpose(1, 2);
  };
  const at::Tensor mask = valid(key_rows, key_lengths).to(device);
  const at::Tensor padded = at::scaled_dot_product_attention(
                                by_head(call.query, query_rows), by_head(call.key, key_rows),
                                by_head(call.value, key_rows), mask.unsqueeze(1).unsqueeze(1))
                                .transpose(1, 2)
                                .reshape({-1, width});
  const at::Tensor wanted = valid(query_rows, query_lengths).flatten().nonzero().flatten();
  return padded.index_select(0, wanted.to(device));
}

/* By torch's operators. */
at::Tensor plain_attention(const AttentionCall &call) {
  const int64_t items = call.query_starts.numel() - 1, width = call.query.size(1);
  int64_t queries = 0, keys = 0;
  if (!equal_lengths(call.query_starts, &queries) || !equal_lengths(call.key_starts, &keys)) {
    return padded_attention(call, items);
  }
  const auto by_head = [&](const at::Tensor &rows) {
    return rows.reshape({items, -1, call.heads, width / call.heads}).transpose(1, 2);
  };
  return at::scaled_dot_product_attention(by_head(call.query), by_head(call.key),
                                          by_head(call.value))
      .transpose(1, 2)
      .reshape({-1, width});
}

void check_starts(const at::Tensor &starts, int64_t rows) {
  TORCH_CHECK(starts.is_cpu() && starts.scalar_type() == at::kLong && starts.dim() == 1 &&
                  starts.is_contiguous() && starts.numel() > 1,
              "attention: expected starts of int64 [items + 1] on the CPU");
  const int64_t *bounds = starts.const_data_ptr<int64_t>();
  TORCH_CHECK(bounds[0] == 0 && bounds[starts.numel() - 1] == rows,
              "attention: expected starts from 0 to ", rows);
  for (int64_t i = 0; i + 1 < starts.numel(); i++) {
    TORCH_CHECK(bounds[i] < bounds[i + 1], "attention: item ", i, " has no rows");
  }
}

void check_attention(const AttentionCall &call) {
  const at::Tensor &query = call.query, &key = call.key;
  TORCH_CHECK(query.dim() == 2 && key.dim() == 2 && call.value.sizes() == key.sizes() &&
                  query.size(1) == key.size(1) && call.heads > 0 && query.size(1) % call.heads == 0,
              "attention: queries, keys and values need one width, a multiple of the heads");
  check_starts(call.query_starts, query.size(0));
  check_starts(call.key_starts, key.size(0));
  TORCH_CHECK(call.query_starts.numel() == call.key_starts.numel(),
              "attention: query_starts and key_starts need one number of items");
}

/* The kernel for these tensors; NULL where torch's operators are needed: they also compute
 * gradients and run on other devices. */
cnclip_attention_kernel *kernel_for(const AttentionCall &call, cnclip_attention_type *ret_type) {
  const at::Tensor &query = call.query, &key = call.key, &value = call.value;
  const at::ScalarType dtype = query.scalar_type();
  *ret_type = dtype == at::kBFloat16 ? CNCLIP_ATTENTION_BF16 : CNCLIP_ATTENTION_F32;
  if (dtype != at::kBFloat16 && dtype != at::kFloat) return nullptr;
  if (key.scalar_type() != dtype || value.scalar_type() != dtype) return nullptr;
  if (!query.is_cpu() || !key.is_cpu() || !value.is_cpu()) return nullptr;
  if (at::GradMode::is_enabled() &&
      (query.requires_grad() || key.requires_grad() || value.requires_grad())) {
    return nullptr;
  }
  return core->attention_kernel_get(*ret_type, current_isa());
}

/* The kernel's job, except its output. The tensors outlive it. */
cnclip_attention_job attention_job(const AttentionCall &call, cnclip_attention_type type,
                                   const at::Tensor &queries, const at::Tensor &keys,
                                   const at::Tensor &values) {
  cnclip_attention_job job{};
  job.type = type;
  job.items = to_size(call.query_starts.numel() - 1);
  job.heads = to_size(call.heads);
  job.head_width = to_size(queries.size(1) / call.heads);
  job.query_starts = call.query_starts.const_data_ptr<int64_t>();
  job.key_starts = call.key_starts.const_data_ptr<int64_t>();
  job.query = queries.const_data_ptr();
  job.key = keys.const_data_ptr();
  job.value = values.const_data_ptr();
  job.query_stride = to_size(queries.stride(0));
  job.key_stride = to_size(keys.stride(0));
  job.value_stride = to_size(values.stride(0));
  return job;
}

/* attention(...) -> Tensor: multi-head scaled dot-product attention of items whose rows follow each
 * other; see attention.h. query: [queries, width]; key, value: [keys, width]; starts: int64
 * [items + 1] on the CPU. */
at::Tensor attention(const at::Tensor &query, const at::Tensor &key, const at::Tensor &value,
                     int64_t heads, const at::Tensor &query_starts, const at::Tensor &key_starts) {
  const AttentionCall call{query, key, value, heads, query_starts, key_starts};
  check_attention(call);
  cnclip_attention_type type;
  cnclip_attention_kernel *kernel = kernel_for(call, &type);
  if (kernel == nullptr) return plain_attention(call);
  const at::Tensor queries = as_rows(query, true), keys = as_rows(key, true),
                   values = as_rows(value, true);
  cnclip_attention_job job = attention_job(call, type, queries, keys, values);
  if (!core->attention_fits(&job)) return plain_attention(call);

  const at::Tensor output = at::empty(query.sizes(), query.options());
  job.output = output.data_ptr();
  job.output_stride = to_size(output.stride(0));
  const size_t scratch_bytes = core->attention_scratch_bytes(&job);
  const auto units = static_cast<int64_t>(job.items * job.heads);
  at::parallel_for(0, units, 1, [&](int64_t first, int64_t last) {
    const at::Tensor scratch = empty_bytes(scratch_bytes);
    kernel(&job, to_size(first), to_size(last), scratch.data_ptr());
  });
  return output;
}

std::optional<torch::Library> registered; /* until the process ends */

}  // namespace

cnclip_activation cnclip_torch::activation_of(std::string_view name) {
  if (name.empty()) return CNCLIP_ACTIVATION_NONE;
  if (name == "relu") return CNCLIP_ACTIVATION_RELU;
  if (name == "gelu") return CNCLIP_ACTIVATION_GELU;
  if (name == "gelu_new") return CNCLIP_ACTIVATION_GELU_TANH;
  if (name == "swish") return CNCLIP_ACTIVATION_SWISH;
  TORCH_CHECK(name == "quick_gelu", "no activation ", name);
  return CNCLIP_ACTIVATION_QUICK_GELU;
}

void cnclip_torch::register_operators() {
  registered.emplace(torch::Library::DEF, "cnclip", std::nullopt, __FILE__, __LINE__);
  torch::Library &library = *registered;
  library.def("pack_linear(Tensor(a!) weight, str precision) -> Tensor(a!)", &pack_linear);
  library.def(
      "linear(Tensor x, Tensor weight, Tensor? bias, int first, int last, Tensor? norm_weight, "
      "Tensor? norm_bias, float eps, str activation, Tensor? residual) -> Tensor",
      &linear);
  library.def(
      "attention(Tensor query, Tensor key, Tensor value, int heads, Tensor query_starts, "
      "Tensor key_starts) -> Tensor",
      &attention);
}
