/* Pillow's bicubic resampling of 8-bit pixels on a GPU, equal to the bit to
 * image/resample_serial.c: the coefficients are the core's, and sums of integers have one result.
 * NVRTC compiles this file at run time, so it includes no header. A test compiles it for the CPU.
 *
 * A filter for `size` positions is int32 first[size], count[size], coefficients[size][capacity], as
 * in image/resample.h. Input pixels have three or four bytes; output pixels have four, of which the
 * last is 0. Each thread computes whole pixels, so that no thread waits for another. */

typedef unsigned char u8;
typedef unsigned int u32;

enum { PRECISION_BITS = 22 };

__device__ __forceinline__ u32 round_sum(u32 sum) {
  const int value = (int)sum >> PRECISION_BITS;
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

/* The pixel of filter position `at` from the pixels of its window, `step` bytes apart; line: the
 * first pixel of the row or column. Sums may wrap on the way: the last one fits 32 bits. */
__device__ __forceinline__ void write_pixel(const u8 *line, long step, const int *filter,
                                            int capacity, int size, int at, u8 *output) {
  const int first = filter[at], count = filter[size + at];
  const int *coefficients = filter + 2 * (long)size + (long)at * capacity;
  const u8 *pixel = line + first * step;
  u32 red = 1u << (PRECISION_BITS - 1), green = red, blue = red;
  for (int i = 0; i < count; i++, pixel += step) {
    const u32 coefficient = coefficients[i];
    red += pixel[0] * coefficient;
    green += pixel[1] * coefficient;
    blue += pixel[2] * coefficient;
  }
  *(u32 *)output = round_sum(red) | round_sum(green) << 8 | round_sum(blue) << 16;
}

/* input: [rows, width] pixels. output: [rows, size] pixels. */
extern "C" __global__ void resample_rows(const u8 *input, int pixel_bytes, int width, int rows,
                                         const int *filter, int capacity, int size, u8 *output) {
  const long threads = (long)gridDim.x * blockDim.x;
  for (long i = (long)blockIdx.x * blockDim.x + threadIdx.x; i < (long)rows * size; i += threads) {
    const u8 *line = input + i / size * width * pixel_bytes;
    write_pixel(line, pixel_bytes, filter, capacity, size, i % size, output + i * 4);
  }
}

/* input: [any number of rows, width] pixels. output: [size, width] pixels, in rows of output_width
 * pixels. */
extern "C" __global__ void resample_columns(const u8 *input, int pixel_bytes, int width,
                                            const int *filter, int capacity, int size, u8 *output,
                                            int output_width) {
  const long threads = (long)gridDim.x * blockDim.x;
  for (long i = (long)blockIdx.x * blockDim.x + threadIdx.x; i < (long)size * width; i += threads) {
    const long x = i % width, y = i / width;
    write_pixel(input + x * pixel_bytes, (long)width * pixel_bytes, filter, capacity, size, y,
                output + (y * output_width + x) * 4);
  }
}
