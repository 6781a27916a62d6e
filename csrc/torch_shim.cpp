#include "torch_shim.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>

#include <atomic>
#include <cstring>
#include <exception>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <unistd.h>

/* Of the OpenMP library that libtorch brings and the build links to; omp.h may be another's. */
extern "C" {
int omp_get_max_threads(void);
void omp_set_num_threads(int count);
}

struct cnclip_torch_model {
  torch::jit::Module module;
  c10::Device device;
  int num_threads;
  std::optional<torch::jit::Method> encode_image, encode_text;

  cnclip_torch_model(torch::jit::Module loaded, c10::Device where, int threads)
      : module(std::move(loaded)), device(where), num_threads(threads) {}
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

}  // namespace

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

  cnclip_torch_model *model = nullptr;
  status = guarded_parallel(
      CNCLIP_ERROR_ARCHIVE, "reading the TorchScript archive", error, [&]() -> cnclip_status {
        choose_executor_once();
        model = new cnclip_torch_model(torch::jit::load(std::string(path), *where), *where,
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
