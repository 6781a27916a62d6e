#include "engine/torch/torch_shim.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/library.h>

#include <atomic>
#include <cstring>
#include <exception>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <unistd.h>

#include "kernels/attention.h"
#include "kernels/linear.h"

/* Of the OpenMP library that libtorch brings and the build links to; omp.h may be another's. */
extern "C" {
int omp_get_max_threads(void);
void omp_set_num_threads(int count);
}

struct cnclip_torch_model {
  torch::jit::Module module;
  c10::Device device;
  cnclip_isa isa; /* of the kernels that its operators use */
  int num_threads;
  std::optional<torch::jit::Method> encode_image, encode_text;

  cnclip_torch_model(torch::jit::Module loaded, c10::Device where, cnclip_isa kernels, int threads)
      : module(std::move(loaded)), device(where), isa(kernels), num_threads(threads) {}
};

namespace {

/* The process that loaded this library. A child of it has no OpenMP workers, whoever started them,
 * and the first parallel loop on a thread that had some would wait for them for ever. */
const pid_t loaded_in = getpid();

/* Refuses to go on in a child of the process that first used this library: a fork while another
 * thread was in libtorch leaves its locks held, and nobody can tell. */
cnclip_status check_not_forked(cnclip_error *error) {
  static std::atomic<pid_t> first_user{0};
  pid_t nobody = 0;
  const pid_t self = getpid();
  if (!first_user.compare_exchange_strong(nobody, self) && nobody != self) {
    return cnclip_error_set(error, CNCLIP_ERROR_FORKED,
                            "this process was forked from one that had already used cnclip, whose "
                            "threads do not survive a fork; start workers with the 'spawn' or "
                            "'forkserver' method, or open the first pipeline after the fork");
  }
  return CNCLIP_OK;
}

/* libtorch's messages come with a C++ or TorchScript stack; people want the sentence. */
std::string without_stack(const char *what) {
  std::string text(what);
  /* An error raised inside TorchScript carries its class and sentence behind the stack. */
  const std::string stack_end = "<--- HERE", class_end = "Error: ";
  const size_t stack = text.rfind(stack_end);
  const size_t at = stack == std::string::npos ? stack : text.find(class_end, stack);
  if (at != std::string::npos) text = text.substr(at + class_end.size());
  text = text.substr(0, text.find("\nException raised from"));
  const size_t end = text.find_last_not_of(" \n\r\t");
  return end == std::string::npos ? std::string("unknown error") : text.substr(0, end + 1);
}

/* How libtorch's CPU allocator words it; it throws no class of its own. */
bool is_out_of_memory(const std::string &message) {
  return message.find("DefaultCPUAllocator") != std::string::npos;
}

/* Runs `body`, which returns a status, and turns whatever it throws into `code`. */
template <typename Body>
cnclip_status guarded(cnclip_status code, const char *doing, cnclip_error *error, Body body) {
  try {
    return body();
  } catch (const std::bad_alloc &) {
    return cnclip_error_memory(error, doing);
  } catch (const c10::OutOfMemoryError &) {
    return cnclip_error_memory(error, doing);
  } catch (const std::exception &caught) {
    const auto *from_torch = dynamic_cast<const c10::Error *>(&caught);
    const std::string message =
        without_stack(from_torch != nullptr ? from_torch->what_without_backtrace() : caught.what());
    if (is_out_of_memory(message)) return cnclip_error_memory(error, doing);
    return cnclip_error_set(error, code, "%s: %s", doing, message.c_str());
  } catch (...) {
    return cnclip_error_set(error, code, "%s: an exception of an unknown type", doing);
  }
}

/* `guarded`, on a thread that has never had OpenMP workers where this process is a fork. */
template <typename Body>
cnclip_status guarded_parallel(cnclip_status code, const char *doing, cnclip_error *error,
                               Body body) {
  if (getpid() == loaded_in) return guarded(code, doing, error, body);
  return guarded(code, doing, error, [&]() -> cnclip_status {
    cnclip_status status = CNCLIP_OK;
    std::thread([&] { status = guarded(code, doing, error, body); }).join();
    return status;
  });
}

/* Sets how many threads this thread's parallel loops use, and puts back what it was. OpenMP's own
 * setting is the thread's; at::set_num_threads would change what other threads start with. */
class ThreadCount {
 public:
  explicit ThreadCount(int wanted) {
    at::get_num_threads(); /* makes libtorch give this thread its count now, not in the run */
    before_ = omp_get_max_threads();
    if (wanted > 0) omp_set_num_threads(wanted);
  }
  ~ThreadCount() { omp_set_num_threads(before_); }
  ThreadCount(const ThreadCount &) = delete;
  ThreadCount &operator=(const ThreadCount &) = delete;

 private:
  int before_;
};

/* The profiling executor would spend the first runs on each new shape recording and recompiling. */
void choose_executor_once() {
  static std::once_flag once;
  std::call_once(once, [] {
    torch::jit::getExecutorMode() = false;
    torch::jit::getProfilingMode() = false;
    /* Its passes take a tenth of a second a tower, and find nothing in graphs of a few large
     * operators. */
    torch::jit::setGraphExecutorOptimize(false);
  });
}

/* --- Operators ----------------------------------------------------------------------------------
 *
 * What the model's graph calls in place of torch's own operators: linear layers with what stands
 * around them, and attention of items without padding. Where a kernel of linear.h or attention.h
 * can compute it, it does; else torch's operators do, which also know gradients and other devices.
 * The weight says which: pack_linear makes a packed one of one dimension, where there are kernels.
 */

cnclip_isa best_isa() {
  int isa = CNCLIP_ISA_COUNT - 1;
  while (!cnclip_isa_supported(static_cast<cnclip_isa>(isa))) isa--;
  return static_cast<cnclip_isa>(isa);
}

/* The set whose kernels operators on this thread use: a model's, while it runs. */
thread_local cnclip_isa current_isa = best_isa();

class IsaChoice {
 public:
  explicit IsaChoice(cnclip_isa isa) : before_(current_isa) { current_isa = isa; }
  ~IsaChoice() { current_isa = before_; }
  IsaChoice(const IsaChoice &) = delete;
  IsaChoice &operator=(const IsaChoice &) = delete;

 private:
  cnclip_isa before_;
};

size_t unsign(int64_t value) {
  return static_cast<size_t>(value);
}

/* The type of a packed weight is that of its elements. */
at::ScalarType dtype_of(cnclip_linear_type type) {
  return type == CNCLIP_LINEAR_F32    ? at::kFloat
         : type == CNCLIP_LINEAR_F16  ? at::kHalf
         : type == CNCLIP_LINEAR_BF16 ? at::kBFloat16
                                      : at::kChar;
}

cnclip_linear_type type_of(at::ScalarType dtype) {
  TORCH_CHECK(
      dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16 || dtype == at::kChar,
      "a packed weight of type ", dtype);
  return dtype == at::kFloat      ? CNCLIP_LINEAR_F32
         : dtype == at::kHalf     ? CNCLIP_LINEAR_F16
         : dtype == at::kBFloat16 ? CNCLIP_LINEAR_BF16
                                  : CNCLIP_LINEAR_INT8;
}

cnclip_activation activation_of(std::string_view name) {
  if (name.empty()) return CNCLIP_ACTIVATION_NONE;
  if (name == "relu") return CNCLIP_ACTIVATION_RELU;
  if (name == "gelu") return CNCLIP_ACTIVATION_GELU;
  if (name == "gelu_new") return CNCLIP_ACTIVATION_GELU_TANH;
  if (name == "swish") return CNCLIP_ACTIVATION_SWISH;
  TORCH_CHECK(name == "quick_gelu", "no activation ", name);
  return CNCLIP_ACTIVATION_QUICK_GELU;
}

/* Runs body(first, last) over all of 0..count on libtorch's threads, which take parts of it as they
 * come: on a machine with other work, threads do not run equally fast. */
template <typename Body>
void parallel_parts(size_t count, size_t parts_a_thread, Body body) {
  const size_t threads = unsign(at::get_num_threads()), parts = threads * parts_a_thread;
  const size_t part = (count + parts - 1) / parts;
  std::atomic<size_t> next{0};
  at::parallel_for(0, static_cast<int64_t>(std::min(threads, count)), 1, [&](int64_t, int64_t) {
    for (size_t first = next.fetch_add(part); first < count; first = next.fetch_add(part)) {
      body(first, std::min(first + part, count));
    }
  });
}

/* pack_linear(Tensor(a!) weight, str precision) -> Tensor(a!): float [out, in] made ready for
 * `linear`. The weight is given up: where it is alone in its memory, that may become the answer's.
 * float16 weights keep their size in fp32, where the kernels widen them as they go. */
at::Tensor pack_linear(const at::Tensor &weight, std::string_view precision) {
  TORCH_CHECK(weight.dim() == 2 && weight.is_floating_point(),
              "a weight of floats, two dimensions");
  const bool is_f16 = weight.scalar_type() == at::kHalf;
  const auto type = precision == "bf16"   ? CNCLIP_LINEAR_BF16
                    : precision == "int8" ? CNCLIP_LINEAR_INT8
                    : is_f16              ? CNCLIP_LINEAR_F16
                                          : CNCLIP_LINEAR_F32;
  const cnclip_linear_kernels *kernels = cnclip_linear_kernels_get(type, current_isa);
  const size_t in = unsign(weight.size(1)), out = unsign(weight.size(0));
  if (!weight.is_cpu() || !cnclip_linear_fits(in, out) || kernels == nullptr) {
    return weight.to(precision == "bf16"   ? at::kBFloat16
                     : precision == "fp16" ? at::kHalf
                                           : at::kFloat);
  }
  const at::Tensor source = (is_f16 ? weight : weight.to(at::kFloat)).contiguous();
  const at::ScalarType dtype = dtype_of(type);
  const auto bytes = static_cast<int64_t>(cnclip_linear_packed_bytes(type, in, out));
  const bool in_place =
      cnclip_linear_packs_in_place(type, is_f16, out) && source.storage().use_count() == 1 &&
      reinterpret_cast<uintptr_t>(source.const_data_ptr()) % CNCLIP_LINEAR_ALIGNMENT == 0;
  const at::Tensor packed = in_place
                                ? source.view({-1}).view(dtype)
                                : at::empty({bytes / static_cast<int64_t>(at::elementSize(dtype))},
                                            at::TensorOptions().dtype(dtype));
  const cnclip_linear_packing packing{
      type, in, out, source.const_data_ptr(), is_f16, packed.data_ptr()};
  const auto panels = static_cast<int64_t>(cnclip_linear_panel_count(out));
  const auto scratch_bytes = static_cast<int64_t>(cnclip_linear_pack_scratch_bytes(type, in));
  at::parallel_for(0, panels, 1, [&](int64_t first, int64_t last) {
    const at::Tensor scratch = at::empty({scratch_bytes}, at::TensorOptions().dtype(at::kByte));
    kernels->pack(&packing, unsign(first), unsign(last), scratch.data_ptr());
  });
  return packed;
}

at::Tensor activated(const at::Tensor &x, cnclip_activation activation) {
  switch (activation) {
    case CNCLIP_ACTIVATION_NONE:
      break;
    case CNCLIP_ACTIVATION_RELU:
      return x.relu();
    case CNCLIP_ACTIVATION_GELU:
      return at::gelu(x);
    case CNCLIP_ACTIVATION_GELU_TANH:
      return at::gelu(x, "tanh");
    case CNCLIP_ACTIVATION_SWISH:
      return x * x.sigmoid();
    case CNCLIP_ACTIVATION_QUICK_GELU:
      return x * (x * 1.702).sigmoid();
  }
  return x;
}

using OptionalTensor = std::optional<at::Tensor>;

at::Tensor plain_linear(const at::Tensor &x, const at::Tensor &weight, const OptionalTensor &bias,
                        int64_t first, int64_t last, const OptionalTensor &norm_weight,
                        const OptionalTensor &norm_bias, double eps, std::string_view activation,
                        const OptionalTensor &residual) {
  at::Tensor input = x;
  if (norm_weight.has_value()) {
    input =
        at::layer_norm(x.to(norm_weight->scalar_type()), {x.size(1)}, norm_weight, norm_bias, eps);
  }
  OptionalTensor offsets;
  if (bias.has_value()) offsets = bias->slice(0, first, last).to(weight.scalar_type());
  at::Tensor output =
      at::linear(input.to(weight.scalar_type()), weight.slice(0, first, last), offsets);
  output = activated(output, activation_of(activation));
  return residual.has_value() ? *residual + output : output;
}

/* Rows of floats or bfloat16 as the kernels take them. */
at::Tensor as_rows(const at::Tensor &x, bool allow_bf16) {
  const bool taken =
      x.scalar_type() == at::kFloat || (allow_bf16 && x.scalar_type() == at::kBFloat16);
  const at::Tensor rows = taken ? x : x.to(at::kFloat);
  return rows.size(1) == 1 || rows.stride(1) == 1 ? rows : rows.contiguous();
}

/* [rows, columns] whose rows do not stand whole pages apart, where they would share one set of a
 * cache. */
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
              "expected ", count, " floats beside a packed weight");
  return vector->const_data_ptr<float>();
}

/* Outputs of the panels of a packed weight. */
int64_t packed_columns(const at::Tensor &weight, cnclip_linear_type type, int64_t input_width) {
  TORCH_CHECK(
      weight.is_cpu() && weight.is_contiguous() &&
          reinterpret_cast<uintptr_t>(weight.const_data_ptr()) % CNCLIP_LINEAR_ALIGNMENT == 0,
      "a packed weight that pack_linear did not make");
  TORCH_CHECK(cnclip_linear_fits(unsign(input_width), CNCLIP_LINEAR_PANEL), "an input of ",
              input_width, " columns to a packed weight");
  const size_t panel = cnclip_linear_packed_bytes(type, unsign(input_width), CNCLIP_LINEAR_PANEL);
  TORCH_CHECK(weight.nbytes() % panel == 0, "a packed weight of another width than the input's ",
              input_width);
  return static_cast<int64_t>(weight.nbytes() / panel * CNCLIP_LINEAR_PANEL);
}

/* linear(...) -> Tensor: columns first..last of
 *   activation(layer_norm(x, norm_weight, norm_bias, eps) weight^T + bias) + residual
 * x: [rows, in]. weight: [out, in], or what pack_linear made of it. bias: [out]. residual:
 * [rows, last - first]. Products of bf16 and int8 weights are given as bfloat16 where there are
 * kernels for attention in it, but for sums with a residual. */
at::Tensor linear(const at::Tensor &x, const at::Tensor &weight, const OptionalTensor &bias,
                  int64_t first, int64_t last, const OptionalTensor &norm_weight,
                  const OptionalTensor &norm_bias, double eps, std::string_view activation,
                  const OptionalTensor &residual) {
  TORCH_CHECK(x.dim() == 2, "linear: rows of two dimensions");
  TORCH_CHECK(norm_weight.has_value() == norm_bias.has_value(), "linear: half a normalisation");
  if (weight.dim() != 1) {
    return plain_linear(x, weight, bias, first, last, norm_weight, norm_bias, eps, activation,
                        residual);
  }
  TORCH_CHECK(!(at::GradMode::is_enabled() && x.requires_grad()),
              "linear: packed weights have no gradients");
  const cnclip_linear_type type = type_of(weight.scalar_type());
  const cnclip_linear_kernels *kernels = cnclip_linear_kernels_get(type, current_isa);
  TORCH_CHECK(kernels != nullptr, "linear: a weight packed for another machine");
  const int64_t in = x.size(1), out = packed_columns(weight, type, in);
  TORCH_CHECK(0 <= first && first < last && last <= out, "linear: columns ", first, " to ", last,
              " of ", out);
  /* Whole panels: what stands before the first column wanted is computed with it. */
  const int64_t panel = first / CNCLIP_LINEAR_PANEL * CNCLIP_LINEAR_PANEL;
  TORCH_CHECK(panel == first || !residual.has_value(), "linear: a residual of part of a panel");
  const bool to_bf16 = (type == CNCLIP_LINEAR_BF16 || type == CNCLIP_LINEAR_INT8) &&
                       cnclip_attention_kernel_get(CNCLIP_ATTENTION_BF16, current_isa) != nullptr;
  const bool output_is_bf16 = to_bf16 && !residual.has_value();

  const at::Tensor input = as_rows(x, true);
  const at::Tensor output =
      empty_rows(input.size(0), last - panel, output_is_bf16 ? at::kBFloat16 : at::kFloat);
  OptionalTensor added;
  if (residual.has_value()) {
    TORCH_CHECK(residual->sizes() == output.sizes(), "linear: a residual of another size");
    added = as_rows(*residual, false);
  }
  if (bias.has_value()) TORCH_CHECK(bias->numel() >= last, "linear: a bias of another size");
  cnclip_linear_job job{};
  job.type = type;
  job.activation = activation_of(activation);
  job.rows = unsign(input.size(0));
  job.input_width = unsign(in);
  job.output_width = unsign(out);
  job.first_column = unsign(panel);
  job.columns = unsign(last - panel);
  job.weight = weight.const_data_ptr();
  job.bias = bias.has_value() ? floats_of(bias, bias->numel()) + panel : nullptr;
  job.input = input.const_data_ptr();
  job.input_stride = unsign(input.stride(0));
  job.input_is_bf16 = input.scalar_type() == at::kBFloat16;
  job.norm_weight = floats_of(norm_weight, in);
  job.norm_bias = floats_of(norm_bias, in);
  job.norm_epsilon = static_cast<float>(eps);
  job.residual = added.has_value() ? added->const_data_ptr<float>() : nullptr;
  job.residual_stride = added.has_value() ? unsign(added->stride(0)) : 0;
  job.output = output.data_ptr();
  job.output_stride = unsign(output.stride(0));
  job.output_is_bf16 = output_is_bf16;
  at::Tensor operand;
  if (const size_t bytes = cnclip_linear_operand_bytes(&job); bytes > 0) {
    operand = at::empty({static_cast<int64_t>(bytes)}, at::TensorOptions().dtype(at::kByte));
    job.operand = operand.data_ptr();
    at::parallel_for(0, input.size(0), 16, [&](int64_t begin, int64_t end) {
      kernels->rows(&job, unsign(begin), unsign(end));
    });
  }
  /* Few rows wait for the weights, which come fastest in one piece for each thread. */
  const size_t parts_a_thread = input.size(0) < 64 ? 1 : 8;
  parallel_parts(cnclip_linear_unit_count(&job), parts_a_thread,
                 [&](size_t begin, size_t end) { kernels->units(&job, begin, end); });
  return panel == first ? output : output.narrow(1, first - panel, last - first);
}

/* Whether all items have one length, which it gives. */
bool equal_lengths(const at::Tensor &starts, int64_t *ret_length) {
  const int64_t *at = starts.const_data_ptr<int64_t>();
  *ret_length = at[1] - at[0];
  for (int64_t i = 1; i + 1 < starts.numel(); i++) {
    if (at[i + 1] - at[i] != *ret_length) return false;
  }
  return true;
}

/* [items, longest]: the row of each item's places; a place behind an item's end has another's. */
at::Tensor row_numbers(const at::Tensor &starts, const at::Tensor &lengths, int64_t rows) {
  const at::Tensor places = at::arange(lengths.max().item<int64_t>(), starts.options());
  return (starts.slice(0, 0, -1).unsqueeze(1) + places).clamp_max(rows - 1);
}

at::Tensor plain_attention(const at::Tensor &query, const at::Tensor &key, const at::Tensor &value,
                           int64_t heads, const at::Tensor &query_starts,
                           const at::Tensor &key_starts) {
  const int64_t items = query_starts.numel() - 1, width = query.size(1);
  const auto by_head = [&](const at::Tensor &rows) {
    return rows.reshape({items, -1, heads, width / heads}).transpose(1, 2);
  };
  int64_t queries = 0, keys = 0;
  if (equal_lengths(query_starts, &queries) && equal_lengths(key_starts, &keys)) {
    return at::scaled_dot_product_attention(by_head(query), by_head(key), by_head(value))
        .transpose(1, 2)
        .reshape({-1, width});
  }
  const at::Tensor query_lengths = query_starts.diff(), key_lengths = key_starts.diff();
  const at::Tensor query_rows = row_numbers(query_starts, query_lengths, query.size(0));
  const at::Tensor key_rows = row_numbers(key_starts, key_lengths, key.size(0));
  const auto valid = [](const at::Tensor &rows, const at::Tensor &lengths) {
    return at::arange(rows.size(1), rows.options()) < lengths.unsqueeze(1);
  };
  const at::Tensor from = query_rows.flatten().to(query.device());
  const at::Tensor to = key_rows.flatten().to(query.device());
  const at::Tensor mask = valid(key_rows, key_lengths).to(query.device());
  const at::Tensor padded = at::scaled_dot_product_attention(by_head(query.index_select(0, from)),
                                                             by_head(key.index_select(0, to)),
                                                             by_head(value.index_select(0, to)),
                                                             mask.unsqueeze(1).unsqueeze(1))
                                .transpose(1, 2)
                                .reshape({-1, width});
  const at::Tensor wanted = valid(query_rows, query_lengths).flatten().nonzero().flatten();
  return padded.index_select(0, wanted.to(query.device()));
}

void check_starts(const at::Tensor &starts, int64_t rows) {
  TORCH_CHECK(starts.is_cpu() && starts.scalar_type() == at::kLong && starts.dim() == 1 &&
                  starts.is_contiguous() && starts.numel() > 1,
              "attention: starts are int64 on the CPU");
  const int64_t *at = starts.const_data_ptr<int64_t>();
  TORCH_CHECK(at[0] == 0 && at[starts.numel() - 1] == rows, "attention: starts of ", rows, " rows");
  for (int64_t i = 0; i + 1 < starts.numel(); i++) {
    TORCH_CHECK(at[i] < at[i + 1], "attention: an item without rows");
  }
}

/* attention(...) -> Tensor: multi-head scaled dot-product attention of items that stand one after
 * the other; see attention.h. query: [queries, width]; key, value: [keys, width]; starts: int64
 * [items + 1] on the CPU. */
at::Tensor attention(const at::Tensor &query, const at::Tensor &key, const at::Tensor &value,
                     int64_t heads, const at::Tensor &query_starts, const at::Tensor &key_starts) {
  TORCH_CHECK(query.dim() == 2 && key.dim() == 2 && value.sizes() == key.sizes() &&
                  query.size(1) == key.size(1) && heads > 0 && query.size(1) % heads == 0,
              "attention: rows of other widths");
  check_starts(query_starts, query.size(0));
  check_starts(key_starts, key.size(0));
  TORCH_CHECK(query_starts.numel() == key_starts.numel(), "attention: starts of other items");
  const at::ScalarType dtype = query.scalar_type();
  const bool is_bf16 = dtype == at::kBFloat16;
  const bool same = key.scalar_type() == dtype && value.scalar_type() == dtype;
  const bool cpu = query.is_cpu() && key.is_cpu() && value.is_cpu();
  const auto type = is_bf16 ? CNCLIP_ATTENTION_BF16 : CNCLIP_ATTENTION_F32;
  cnclip_attention_kernel *kernel = cnclip_attention_kernel_get(type, current_isa);
  const bool learns = at::GradMode::is_enabled() &&
                      (query.requires_grad() || key.requires_grad() || value.requires_grad());
  if (kernel == nullptr || !same || !cpu || learns || !(is_bf16 || dtype == at::kFloat)) {
    return plain_attention(query, key, value, heads, query_starts, key_starts);
  }
  const at::Tensor queries = as_rows(query, true), keys = as_rows(key, true),
                   values = as_rows(value, true);
  const at::Tensor output = at::empty(query.sizes(), query.options());
  cnclip_attention_job job{};
  job.type = type;
  job.items = unsign(query_starts.numel() - 1);
  job.heads = unsign(heads);
  job.head_width = unsign(query.size(1) / heads);
  job.query_starts = query_starts.const_data_ptr<int64_t>();
  job.key_starts = key_starts.const_data_ptr<int64_t>();
  job.query = queries.const_data_ptr();
  job.key = keys.const_data_ptr();
  job.value = values.const_data_ptr();
  job.query_stride = unsign(queries.stride(0));
  job.key_stride = unsign(keys.stride(0));
  job.value_stride = unsign(values.stride(0));
  job.output = output.data_ptr();
  job.output_stride = unsign(output.stride(0));
  if (!cnclip_attention_fits(&job)) {
    return plain_attention(query, key, value, heads, query_starts, key_starts);
  }
  const auto bytes = static_cast<int64_t>(cnclip_attention_scratch_bytes(&job));
  const auto units = static_cast<int64_t>(job.items * job.heads);
  at::parallel_for(0, units, 1, [&](int64_t first, int64_t last) {
    const at::Tensor scratch = at::empty({bytes}, at::TensorOptions().dtype(at::kByte));
    kernel(&job, unsign(first), unsign(last), scratch.data_ptr());
  });
  return output;
}

/* --- Models -------------------------------------------------------------------------------------
 */

std::optional<torch::jit::Method> find_method(const torch::jit::Module &module, const char *name) {
  auto found = module.find_method(name);
  if (!found.has_value()) return std::nullopt;
  return std::optional<torch::jit::Method>(std::move(*found));
}

cnclip_status run(cnclip_torch_model *model, const torch::jit::Method &method, at::Tensor input,
                  size_t count, size_t width, float *embeddings, cnclip_error *error) {
  const cnclip_status status = check_not_forked(error);
  if (status != CNCLIP_OK) return status;
  return guarded_parallel(CNCLIP_ERROR_MODEL, "running the model", error, [&]() -> cnclip_status {
    const c10::InferenceMode inference;
    const ThreadCount threads(model->num_threads);
    const IsaChoice kernels(model->isa);
    std::vector<c10::IValue> stack{input.to(model->device)};
    const at::Tensor rows = method(std::move(stack)).toTensor().to(at::kCPU).contiguous();
    if (rows.scalar_type() != at::kFloat || rows.dim() != 2 ||
        rows.size(0) != static_cast<int64_t>(count) ||
        rows.size(1) != static_cast<int64_t>(width)) {
      return cnclip_error_set(error, CNCLIP_ERROR_MODEL,
                              "the model answered a tensor of another shape or type than float32 "
                              "[%zu, %zu]",
                              count, width);
    }
    std::memcpy(embeddings, rows.const_data_ptr<float>(), count * width * sizeof(float));
    return CNCLIP_OK;
  });
}

/* Whether this device computes in `precision`; where it does not, fp32 is offered. */
cnclip_status check_precision(bool cpu, const char *precision, cnclip_isa isa,
                              cnclip_error *error) {
  static const struct {
    const char *name, *needs;
    bool on_gpu;
    bool on_cpu;             /* where there are kernels for `type` */
    cnclip_linear_type type; /* of fp32 there is torch's own besides */
  } known[] = {
      {"fp32", "", true, true, CNCLIP_LINEAR_F32},
      {"bf16", "a GPU, or a processor with AVX-512 BF16", true, true, CNCLIP_LINEAR_BF16},
      {"int8", "a processor with AVX-512 VNNI", false, true, CNCLIP_LINEAR_INT8},
      {"fp16", "a GPU", true, false, CNCLIP_LINEAR_F16},
  };
  for (const auto &one : known) {
    if (std::strcmp(one.name, precision) != 0) continue;
    if (cpu ? one.on_cpu && (one.type == CNCLIP_LINEAR_F32 ||
                             cnclip_linear_kernels_get(one.type, isa) != nullptr)
            : one.on_gpu) {
      return CNCLIP_OK;
    }
    return cnclip_error_set(
        error, CNCLIP_ERROR_DEVICE, "precision %s needs %s, and this is %s%s; use fp32", precision,
        one.needs, cpu ? "a processor that runs " : "a GPU", cpu ? cnclip_isa_name(isa) : "");
  }
  return cnclip_error_set(error, CNCLIP_ERROR_ARGUMENT,
                          "precision: expected fp32, bf16, int8 or fp16, got %s", precision);
}

}  // namespace

TORCH_LIBRARY(cnclip, library) {
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

cnclip_status cnclip_torch_check_precision(const char *device, const char *precision,
                                           cnclip_error *error) {
  cnclip_isa isa;
  const cnclip_status status = cnclip_isa_choose(&isa, error);
  if (status != CNCLIP_OK) return status;
  return check_precision(std::strncmp(device, "cpu", 3) == 0, precision, isa, error);
}

cnclip_status cnclip_torch_model_load(const char *path, const char *device, const char *precision,
                                      int num_threads, cnclip_torch_model **ret_model,
                                      cnclip_error *error) {
  *ret_model = nullptr;
  cnclip_status status = check_not_forked(error);
  if (status != CNCLIP_OK) return status;

  std::optional<c10::Device> where;
  status = guarded(CNCLIP_ERROR_DEVICE, "choosing the device", error, [&]() -> cnclip_status {
    try {
      where.emplace(std::string(device));
    } catch (const c10::Error &) { /* its message lists every device that torch has heard of */
      return cnclip_error_set(error, CNCLIP_ERROR_DEVICE, "%s is not the name of a device", device);
    }
    if (where->is_cuda() && where->index() >= cnclip_torch_cuda_count()) {
      return cnclip_error_set(error, CNCLIP_ERROR_DEVICE,
                              "no device %s: libtorch sees %d CUDA devices", device,
                              cnclip_torch_cuda_count());
    }
    return CNCLIP_OK;
  });
  if (status != CNCLIP_OK) return status;
  cnclip_isa isa;
  status = cnclip_isa_choose(&isa, error);
  if (status == CNCLIP_OK) status = check_precision(where->is_cpu(), precision, isa, error);
  if (status != CNCLIP_OK) return status;

  cnclip_torch_model *model = nullptr;
  status = guarded_parallel(
      CNCLIP_ERROR_ARCHIVE, "reading the TorchScript archive", error, [&]() -> cnclip_status {
        choose_executor_once();
        model = new cnclip_torch_model(torch::jit::load(std::string(path), *where), *where, isa,
                                       num_threads);
        model->module.eval();
        model->encode_image = find_method(model->module, "encode_image");
        model->encode_text = find_method(model->module, "encode_text");
        const char *missing = !model->encode_image                     ? "encode_image"
                              : !model->encode_text                    ? "encode_text"
                              : !find_method(model->module, "prepare") ? "prepare"
                                                                       : nullptr;
        if (missing == nullptr) return CNCLIP_OK;
        return cnclip_error_set(error, CNCLIP_ERROR_ARCHIVE,
                                "the TorchScript archive has no method %s", missing);
      });
  if (status == CNCLIP_OK) {
    status =
        guarded_parallel(CNCLIP_ERROR_MODEL, "preparing the model", error, [&]() -> cnclip_status {
          const c10::InferenceMode inference;
          const ThreadCount threads(model->num_threads);
          const IsaChoice kernels(model->isa);
          model->module.get_method("prepare")({std::string(precision)});
          return CNCLIP_OK;
        });
  }
  if (status != CNCLIP_OK) {
    cnclip_torch_model_free(model);
    return status;
  }
  *ret_model = model;
  return CNCLIP_OK;
}

void cnclip_torch_model_free(cnclip_torch_model *model) {
  try {
    delete model;
  } catch (...) {
    /* Nothing can be done about weights that do not want to go. */
  }
}

cnclip_status cnclip_torch_model_encode_image(cnclip_torch_model *model, const float *pixels,
                                              size_t count, size_t resolution, float *embeddings,
                                              size_t width, cnclip_error *error) {
  return guarded(CNCLIP_ERROR_MODEL, "wrapping the pixels", error, [&]() -> cnclip_status {
    const auto side = static_cast<int64_t>(resolution);
    /* from_blob takes no const pointer; the towers do not write to their input. */
    at::Tensor input = at::from_blob(const_cast<float *>(pixels),
                                     {static_cast<int64_t>(count), 3, side, side}, at::kFloat);
    return run(model, *model->encode_image, std::move(input), count, width, embeddings, error);
  });
}

cnclip_status cnclip_torch_model_encode_text(cnclip_torch_model *model, const int64_t *ids,
                                             size_t count, size_t length, float *embeddings,
                                             size_t width, cnclip_error *error) {
  return guarded(CNCLIP_ERROR_MODEL, "wrapping the token ids", error, [&]() -> cnclip_status {
    at::Tensor input =
        at::from_blob(const_cast<int64_t *>(ids),
                      {static_cast<int64_t>(count), static_cast<int64_t>(length)}, at::kLong);
    return run(model, *model->encode_text, std::move(input), count, width, embeddings, error);
  });
}

int cnclip_torch_model_num_threads(const cnclip_torch_model *model) {
  return model->num_threads > 0 ? model->num_threads : at::get_num_threads();
}

int cnclip_torch_cuda_count(void) {
  try {
    return at::hasCUDA() ? static_cast<int>(at::detail::getCUDAHooks().deviceCount()) : 0;
  } catch (...) {
    return 0;
  }
}
