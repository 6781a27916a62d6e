#include "engine/torch/torch_shim.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>

#include <cstring>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "engine/torch/torch_guard.hpp"
#include "kernels/linear.h"

using namespace cnclip_torch;

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

/* The profiling executor would spend the first runs on each new shape recording and recompiling. */
void choose_executor_once() {
  static std::once_flag once;
  std::call_once(once, [] {
    torch::jit::getExecutorMode() = false;
    torch::jit::getProfilingMode() = false;
    /* Its passes take a tenth of a second per tower, and find nothing to optimize in graphs of a
     * few large operators. */
    torch::jit::setGraphExecutorOptimize(false);
  });
}

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
                              "the model returned a tensor of another shape or type than float32 "
                              "[%zu, %zu]",
                              count, width);
    }
    std::memcpy(embeddings, rows.const_data_ptr<float>(), count * width * sizeof(float));
    return CNCLIP_OK;
  });
}

/* Whether this device computes in `precision`; the message suggests fp32 otherwise. */
cnclip_status check_precision(bool cpu, const char *precision, cnclip_isa isa,
                              cnclip_error *error) {
  static const struct {
    const char *name, *needs;
    bool on_gpu;
    bool on_cpu;             /* where there are kernels for `type` */
    cnclip_linear_type type; /* without kernels for fp32, torch's operators are used */
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

cnclip_status choose_device(const char *name, std::optional<c10::Device> *ret_device,
                            cnclip_error *error) {
  return guarded(CNCLIP_ERROR_DEVICE, "choosing the device", error, [&]() -> cnclip_status {
    try {
      ret_device->emplace(std::string(name));
    } catch (const c10::Error &) { /* its message lists every device that torch knows */
      return cnclip_error_set(error, CNCLIP_ERROR_DEVICE, "%s is not the name of a device", name);
    }
    if ((*ret_device)->is_cuda() && (*ret_device)->index() >= cnclip_torch_cuda_count()) {
      return cnclip_error_set(error, CNCLIP_ERROR_DEVICE,
                              "no device %s: libtorch sees %d CUDA devices", name,
                              cnclip_torch_cuda_count());
    }
    return CNCLIP_OK;
  });
}

/* Loads the archive and finds its methods. *ret_model is set even where one is missing. */
cnclip_status load_archive(const char *path, c10::Device device, cnclip_isa isa, int num_threads,
                           cnclip_torch_model **ret_model, cnclip_error *error) {
  return guarded_parallel(
      CNCLIP_ERROR_ARCHIVE, "reading the TorchScript archive", error, [&]() -> cnclip_status {
        choose_executor_once();
        cnclip_torch_model *model = new cnclip_torch_model(
            torch::jit::load(std::string(path), device), device, isa, num_threads);
        *ret_model = model;
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
}

cnclip_status prepare(cnclip_torch_model *model, const char *precision, cnclip_error *error) {
  return guarded_parallel(CNCLIP_ERROR_MODEL, "preparing the model", error, [&]() -> cnclip_status {
    const c10::InferenceMode inference;
    const ThreadCount threads(model->num_threads);
    const IsaChoice kernels(model->isa);
    model->module.get_method("prepare")({std::string(precision)});
    return CNCLIP_OK;
  });
}

}  // namespace

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
  cnclip_torch_model *model = nullptr;
  std::optional<c10::Device> where;
  cnclip_isa isa;
  *ret_model = nullptr;
  cnclip_status status = check_not_forked(error);
  if (status == CNCLIP_OK) status = choose_device(device, &where, error);
  if (status == CNCLIP_OK) status = cnclip_isa_choose(&isa, error);
  if (status == CNCLIP_OK) status = check_precision(where->is_cpu(), precision, isa, error);
  if (status == CNCLIP_OK) status = load_archive(path, *where, isa, num_threads, &model, error);
  if (status == CNCLIP_OK) status = prepare(model, precision, error);
  if (status == CNCLIP_OK) {
    *ret_model = model;
  } else {
    cnclip_torch_model_free(model);
  }
  return status;
}

void cnclip_torch_model_free(cnclip_torch_model *model) {
  try {
    delete model;
  } catch (...) {
    /* There is no way to report an error of a destructor. */
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
