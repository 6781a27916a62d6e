/* Shared by the files of this folder: exceptions become statuses, forks are detected, and settings
 * of a thread are changed for the time of one call. */
#ifndef CNCLIP_TORCH_GUARD_HPP
#define CNCLIP_TORCH_GUARD_HPP

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <c10/util/FunctionRef.h>

#include <atomic>
#include <exception>
#include <new>
#include <optional>
#include <string_view>
#include <thread>

#include <unistd.h>

#include "engine/engine.h"

/* Of the OpenMP library that libtorch needs; omp.h may be another's. */
extern "C" {
int omp_get_max_threads(void);
void omp_set_num_threads(int count);
}

namespace cnclip_torch {

/* What the core lends, from the engine's start on. */
inline const cnclip_engine_core *core;

/* Fails in a forked child of the process that first used this library: a fork while another thread
 * was in libtorch leaves libtorch's locks held, which cannot be detected. */
inline cnclip_status check_not_forked(cnclip_error *error) {
  static std::atomic<pid_t> first_user{0};
  pid_t nobody = 0;
  const pid_t self = getpid();
  if (!first_user.compare_exchange_strong(nobody, self) && nobody != self) {
    return core->error_set(error, CNCLIP_ERROR_FORKED,
                           "this process was forked from one that had already used cnclip, whose "
                           "threads do not survive a fork; start workers with the 'spawn' or "
                           "'forkserver' method, or open the first pipeline after the fork");
  }
  return CNCLIP_OK;
}

/* The sentence of a libtorch message, without the C++ or TorchScript stack around it. */
inline std::string_view without_stack(std::string_view text) {
  /* In an error raised inside TorchScript, the class and the sentence follow the stack. */
  constexpr std::string_view stack_end = "<--- HERE", class_end = "Error: ";
  const size_t stack = text.rfind(stack_end);
  const size_t position = stack == text.npos ? stack : text.find(class_end, stack);
  if (position != text.npos) text.remove_prefix(position + class_end.size());
  text = text.substr(0, text.find("\nException raised from"));
  const size_t end = text.find_last_not_of(" \n\r\t");
  return end == text.npos ? "unknown error" : text.substr(0, end + 1);
}

/* libtorch's CPU allocator throws no class of its own: its message names it. */
inline bool is_out_of_memory(std::string_view message) {
  return message.find("DefaultCPUAllocator") != message.npos;
}

inline cnclip_status out_of_memory(cnclip_error *error, const char *doing) {
  return core->error_set(error, CNCLIP_ERROR_MEMORY, "out of memory for %s", doing);
}

/* The status of the exception that is being handled. It allocates nothing, and so throws nothing.
 */
inline cnclip_status status_of_exception(cnclip_status code, const char *doing,
                                         cnclip_error *error) {
  std::string_view message = "an exception of an unknown type";
  try {
    throw;
  } catch (const std::bad_alloc &) {
    return out_of_memory(error, doing);
  } catch (const c10::OutOfMemoryError &) {
    return out_of_memory(error, doing); /* of CUDA's allocator */
  } catch (const c10::Error &caught) {
    message = without_stack(caught.what_without_backtrace());
  } catch (const std::exception &caught) {
    message = without_stack(caught.what());
  } catch (...) { /* not derived from std::exception: it has no message */
  }
  if (is_out_of_memory(message)) return out_of_memory(error, doing);
  return core->error_set(error, code, "%s: %.*s", doing, static_cast<int>(message.size()),
                         message.data());
}

using Body = c10::function_ref<cnclip_status()>;

/* Runs `body` and turns every exception into `code`. */
inline cnclip_status guarded(cnclip_status code, const char *doing, cnclip_error *error,
                             Body body) {
  try {
    return body();
  } catch (...) {
    return status_of_exception(code, doing, error);
  }
}

/* `guarded`; in a process that was forked after the core was loaded, on a new thread. The child has
 * no OpenMP workers, and the first parallel loop on a thread that had some before the fork, for
 * example in Python's torch, would wait for them for ever. */
inline cnclip_status guarded_parallel(cnclip_status code, const char *doing, cnclip_error *error,
                                      Body body) {
  if (getpid() == core->process) return guarded(code, doing, error, body);
  return guarded(code, doing, error, [&]() -> cnclip_status {
    cnclip_status status = CNCLIP_OK;
    std::thread([&] { status = guarded(code, doing, error, body); }).join();
    return status;
  });
}

/* Whether the parallel loops of a run on this thread may get fewer threads than libtorch sees, so
 * that the bits of results must not depend on how many they get. */
inline thread_local bool threads_vary = false;

/* Sets the number of threads of this thread's parallel loops, and `threads_vary`, and restores
 * them. OpenMP's setting belongs to the thread; at::set_num_threads would change the default of
 * other threads. */
class ThreadCount {
 public:
  ThreadCount(int wanted, bool may_vary) : varied_before_(threads_vary) {
    at::get_num_threads(); /* libtorch sets this thread's default now, not during the run */
    before_ = omp_get_max_threads();
    if (wanted > 0) omp_set_num_threads(wanted);
    threads_vary = may_vary;
  }
  ~ThreadCount() {
    omp_set_num_threads(before_);
    threads_vary = varied_before_;
  }
  ThreadCount(const ThreadCount &) = delete;
  ThreadCount &operator=(const ThreadCount &) = delete;

 private:
  int before_;
  bool varied_before_;
};

/* Runs `body`, which throws nothing, with at most `limit` threads in each parallel loop. The number
 * of threads that libtorch, oneDNN and MKL see is unchanged: they choose algorithms by it, so that
 * results do not depend on the limit. Without OpenMP there is no limit. */
inline void with_thread_limit(int limit, c10::function_ref<void()> body) {
  if (limit >= omp_get_max_threads()) {
    body();
    return;
  }
#ifdef _OPENMP
#pragma omp teams num_teams(1) thread_limit(limit)
#endif
  body();
}

/* The instruction set of the model that runs on this thread, which its operators use. */
inline thread_local std::optional<cnclip_isa> model_isa;

class IsaChoice {
 public:
  explicit IsaChoice(cnclip_isa isa) : before_(model_isa) { model_isa = isa; }
  ~IsaChoice() { model_isa = before_; }
  IsaChoice(const IsaChoice &) = delete;
  IsaChoice &operator=(const IsaChoice &) = delete;

 private:
  std::optional<cnclip_isa> before_;
};

/* Registers the operators of torch_ops.cpp, which torch::Library allows once per process. */
void register_operators();

/* The activation that a graph names `quick_gelu`, for example. c10::Error: there is none. */
cnclip_activation activation_of(std::string_view name);

}  // namespace cnclip_torch

#endif
