#include "engine/torch/cuda/cuda_resize.hpp"

#include <algorithm>
#include <cstring>
#include <exception>
#include <utility>

#include "engine/torch/cuda/cuda_kernels.hpp"

namespace cnclip_cuda {

namespace {

enum {
  IMAGES = 4, /* that are resampled at a time: while one is computed, others are copied */
  THREADS = 256,
  MAX_BLOCKS = 4096,
  ALIGNMENT = 256,
};

/* A rectangle of an image. */
struct Part {
  int x, y, width, height;
};

std::size_t aligned(std::size_t bytes) {
  return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* Bytes of a pixel of `pack`. */
int pixel_bytes_of(const cnclip_image &image) {
  return image.four_bytes ? 4 : 3;
}

/* Copies a part's rows one after the other. */
void pack(const cnclip_image &image, const Part &part, std::uint8_t *packed) {
  const std::ptrdiff_t next = image.pixel_stride, channel = image.channel_stride;
  const auto row_bytes = static_cast<std::size_t>(part.width) * pixel_bytes_of(image);
  for (int y = part.y; y < part.y + part.height; y++, packed += row_bytes) {
    const std::uint8_t *pixel = image.pixels + y * image.row_stride + part.x * next;
    if (image.four_bytes || (next == 3 && channel == 1)) {
      std::memcpy(packed, pixel, row_bytes);
      continue;
    }
    std::uint8_t *output = packed;
    for (int x = 0; x < part.width; x++, pixel += next, output += 3) {
      for (int c = 0; c < 3; c++) output[c] = pixel[c * channel];
    }
  }
}

std::size_t filter_bytes(const cnclip_resample_filter &filter) {
  return static_cast<std::size_t>(filter.output_size) * (filter.capacity + 2) * sizeof(int);
}

/* Writes a filter as cuda_resize.cu reads it. */
void pack(const cnclip_resample_filter &filter, void *packed) {
  const auto size = static_cast<std::size_t>(filter.output_size);
  int *next = static_cast<int *>(packed);
  next = std::copy_n(filter.first, size, next);
  next = std::copy_n(filter.count, size, next);
  std::copy_n(filter.coefficients, size * filter.capacity, next);
}

}  // namespace

/* Bytes from the start of a work's memory. Pieces are as large here as on the GPU. */
struct Resizer::Places {
  int lines, at_once; /* rows or columns of the image, and of a piece */
  std::size_t horizontal, vertical, between, result, end;

  Places(const cnclip_image &image, const cnclip_image_plan &plan, std::size_t piece_bytes) {
    const bool columns = plan.is_vertical_first;
    const auto side = static_cast<std::size_t>(plan.resolution);
    lines = columns ? image.width : image.height;
    const auto line_bytes =
        static_cast<std::size_t>(columns ? image.height : image.width) * pixel_bytes_of(image);
    const std::size_t fitting = std::max<std::size_t>(piece_bytes / line_bytes, 1);
    at_once = static_cast<int>(std::min(fitting, static_cast<std::size_t>(lines)));
    horizontal = aligned(static_cast<std::size_t>(at_once) * line_bytes);
    vertical = horizontal + aligned(filter_bytes(plan.horizontal));
    between = vertical + aligned(filter_bytes(plan.vertical));
    result = between + aligned(static_cast<std::size_t>(lines) * side * 4);
    end = result + side * side * 4;
  }

  /* What is uploaded: a piece and the filters. */
  std::size_t input_bytes() const { return between; }
};

/* What one image uses. To be created, used and destroyed with the GPU's context current. */
class Resizer::Work {
 public:
  explicit Work(Allocate allocate) : allocate_(std::move(allocate)) {}
  ~Work() { library().cuStreamSynchronize(stream()); /* after an error, work may be left on it */ }
  Work(const Work &) = delete;
  Work &operator=(const Work &) = delete;

  Stream stream() const { return stream_.get(); }
  DevicePointer memory() const { return reinterpret_cast<DevicePointer>(memory_.get()); }
  std::uint8_t *input() const { return static_cast<std::uint8_t *>(input_.data()); }
  void *output() const { return output_.data(); }

  void reserve(std::size_t bytes, std::size_t input_bytes, std::size_t output_bytes) {
    wait(); /* after an error, work may be left that uses the memory */
    if (bytes > bytes_) {
      bytes_ = 0;
      memory_.reset(); /* the new memory may be taken from it */
      memory_ = allocate_(bytes);
      bytes_ = bytes;
    }
    input_.reserve(input_bytes);
    output_.reserve(output_bytes);
  }

  void upload(std::size_t place, std::size_t bytes) {
    CNCLIP_CUDA(cuMemcpyHtoDAsync_v2, memory() + place, input() + place, bytes, stream());
  }

  void wait() { CNCLIP_CUDA(cuStreamSynchronize, stream()); }

 private:
  Allocate allocate_;
  OwnedStream stream_;
  std::size_t bytes_ = 0;
  DeviceBlock memory_;
  PinnedMemory input_, output_;
};

Resizer::Resizer(int device, Allocate allocate, std::size_t piece_bytes)
    : context_(context_of(device)),
      piece_bytes_(piece_bytes),
      works_(IMAGES,
             [allocate = std::move(allocate)] { return std::make_unique<Work>(allocate); }) {
  const CurrentContext current(context_);
  module_.emplace(Source::RESIZE,
                  std::vector{"--gpu-architecture=" + capability_of(device).architecture()});
  rows_ = module_->kernel("resample_rows");
  columns_ = module_->kernel("resample_columns");
}

Resizer::~Resizer() {
  try {
    const CurrentContext current(context_);
    works_.clear();
  } catch (const std::exception &) {
    works_.abandon(); /* at the end of the process, or in a forked one: the driver is not there */
  }
}

/* One direction, for `width` x `height` pixels of input. */
void Resizer::run(Work *work, bool vertical, DevicePointer input, int pixel_bytes, int width,
                  int height, DevicePointer filter, const cnclip_resample_filter &of,
                  DevicePointer output, int output_width) {
  const int size = of.output_size, capacity = static_cast<int>(of.capacity);
  const long pixels = static_cast<long>(size) * (vertical ? width : height);
  const Grid grid{
      static_cast<unsigned>(std::min<long>((pixels + THREADS - 1) / THREADS, MAX_BLOCKS))};
  if (vertical) {
    launch(work->stream(), columns_, grid, THREADS, 0, input, pixel_bytes, width, filter, capacity,
           size, output, output_width);
  } else {
    launch(work->stream(), rows_, grid, THREADS, 0, input, pixel_bytes, width, height, filter,
           capacity, size, output);
  }
}

/* From the image to `between`: [height, r] pixels, or [r, width] where columns are first. */
void Resizer::first_pass(Work *work, const Places &places, const cnclip_image &image,
                         const cnclip_image_plan &plan) {
  const bool vertical = plan.is_vertical_first;
  const int pixel_bytes = pixel_bytes_of(image);
  const DevicePointer memory = work->memory();
  int lines = 0;
  for (int first = 0; first < places.lines; first += lines) {
    lines = std::min(places.at_once, places.lines - first);
    const Part part =
        vertical ? Part{first, 0, lines, image.height} : Part{0, first, image.width, lines};
    if (first > 0) work->wait(); /* the last piece is still read from the same memory */
    pack(image, part, work->input());
    work->upload(0, static_cast<std::size_t>(part.width) * part.height * pixel_bytes);
    const DevicePointer output =
        memory + places.between +
        static_cast<DevicePointer>(first) * (vertical ? 1 : plan.resolution) * 4;
    run(work, vertical, memory, pixel_bytes, part.width, part.height,
        memory + (vertical ? places.vertical : places.horizontal),
        vertical ? plan.vertical : plan.horizontal, output, image.width);
  }
}

void Resizer::resize(const cnclip_image &image, const cnclip_image_plan &plan,
                     std::uint8_t *bytes) {
  const CurrentContext current(context_);
  const int side = plan.resolution;
  const std::size_t result_bytes = static_cast<std::size_t>(side) * side * 4;
  const Places places(image, plan, piece_bytes_);
  const Pool<Work>::Lease work(&works_);
  work->reserve(places.end, places.input_bytes(), result_bytes);
  pack(plan.horizontal, work->input() + places.horizontal);
  pack(plan.vertical, work->input() + places.vertical);
  work->upload(places.horizontal, places.input_bytes() - places.horizontal);
  first_pass(&*work, places, image, plan);

  const bool vertical = !plan.is_vertical_first;
  const DevicePointer memory = work->memory(), result = memory + places.result;
  run(&*work, vertical, memory + places.between, 4, vertical ? side : image.width,
      vertical ? image.height : side, memory + (vertical ? places.vertical : places.horizontal),
      vertical ? plan.vertical : plan.horizontal, result, side);
  CNCLIP_CUDA(cuMemcpyDtoHAsync_v2, work->output(), result, result_bytes, work->stream());
  work->wait();
  std::memcpy(bytes, work->output(), result_bytes);
}

}  // namespace cnclip_cuda
