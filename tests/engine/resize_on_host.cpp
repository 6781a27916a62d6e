/* Resizes images by the engine's code for a GPU, which runs on the CPU by cuda_on_host.cpp:
 *   resize_on_host LIBRARY PIECE_BYTES THREADS < images > results
 * stdin: for each image, int32 width, height, layout, resolution, and its pixels.
 * stdout: [r, r, 4] bytes of each. An image that ends in std::bad_alloc is tried again at the end,
 * and counted on stderr. */
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#include "engine/torch/cuda/cuda_resize.hpp"

namespace {

enum Layout { THREE_BYTES, FOUR_BYTES, PLANES_UPSIDE_DOWN };

struct Job {
  cnclip_image image{};
  int resolution = 0, failures = 0;
  std::vector<std::uint8_t> pixels, result;
};

bool read_job(Job *job) {
  int header[4];
  if (std::fread(header, sizeof header, 1, stdin) != 1) return false;
  const int width = header[0], height = header[1], layout = header[2];
  const std::ptrdiff_t area = static_cast<std::ptrdiff_t>(width) * height;
  job->resolution = header[3];
  job->pixels.resize(area * (layout == FOUR_BYTES ? 4 : 3));
  job->result.resize(static_cast<std::size_t>(job->resolution) * job->resolution * 4);
  if (std::fread(job->pixels.data(), job->pixels.size(), 1, stdin) != 1) std::abort();
  const std::uint8_t *pixels = job->pixels.data();
  if (layout == THREE_BYTES) {
    job->image = {pixels, width, height, std::ptrdiff_t{width} * 3, 3, 1, false};
  } else if (layout == FOUR_BYTES) {
    job->image = {pixels, width, height, std::ptrdiff_t{width} * 4, 4, 1, true};
  } else {
    job->image = {pixels + area - width, width, height, -std::ptrdiff_t{width}, 1, area, false};
  }
  return true;
}

bool run(cnclip_cuda::Resizer *resizer, Job *job) {
  cnclip_image_plan plan;
  cnclip_error error;
  bool done = true;
  if (cnclip_image_plan_init(&plan, job->image.width, job->image.height, job->resolution, &error) !=
      CNCLIP_OK) {
    std::abort();
  }
  try {
    resizer->resize(job->image, plan, job->result.data());
  } catch (const std::bad_alloc &) {
    job->failures++;
    done = false;
  }
  cnclip_image_plan_free(&plan);
  return done;
}

/* malloc, in place of a GPU's memory; fails once, at the call whose number is in the environment.
 */
cnclip_cuda::DeviceBlock allocate(std::size_t bytes) {
  static const char *number = std::getenv("FAILING_DEVICE");
  static int calls = 0;
  if (number != nullptr && ++calls == std::atoi(number)) throw std::bad_alloc();
  return {std::malloc(bytes), std::free};
}

}  // namespace

int main(int, char **arguments) {
  if (dlopen(arguments[1], RTLD_NOW) == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  const unsigned threads = std::atoi(arguments[3]);
  std::vector<std::unique_ptr<Job>> jobs;
  for (auto job = std::make_unique<Job>(); read_job(job.get()); job = std::make_unique<Job>()) {
    jobs.push_back(std::move(job));
  }
  cnclip_cuda::Resizer resizer(0, allocate, std::atol(arguments[2]));
  std::vector<std::thread> running;
  for (unsigned thread = 0; thread < threads; thread++) {
    running.emplace_back([&, thread] {
      std::vector<Job *> failed; /* tried again after all others, which may need less memory */
      for (std::size_t i = thread; i < jobs.size(); i += threads) {
        if (!run(&resizer, jobs[i].get())) failed.push_back(jobs[i].get());
      }
      for (Job *job : failed) run(&resizer, job);
    });
  }
  for (std::thread &thread : running) thread.join();
  int failures = 0;
  for (const auto &job : jobs) {
    failures += job->failures;
    std::fwrite(job->result.data(), job->result.size(), 1, stdout);
  }
  std::fprintf(stderr, "failures: %d\n", failures);
  return 0;
}
