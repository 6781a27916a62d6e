#include "image/image.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"

struct cnclip_image_processor {
  int resolution;
  const cnclip_image_kernels *kernels;
  cnclip_normalize_constants constants;
};

static const cnclip_image_kernels kernel_table[CNCLIP_ISA_COUNT] = {
    [CNCLIP_ISA_SERIAL] = {cnclip_resample_widen_u8_serial, cnclip_resample_horizontal_u8_serial,
                           cnclip_resample_vertical_u8_serial, cnclip_normalize_u8_serial},
#if defined(__x86_64__)
    [CNCLIP_ISA_AVX2] = {cnclip_resample_widen_u8_avx2, cnclip_resample_horizontal_u8_avx2,
                         cnclip_resample_vertical_u8_avx2, cnclip_normalize_u8_avx2},
    [CNCLIP_ISA_AVX512] = {cnclip_resample_widen_u8_avx2, cnclip_resample_horizontal_u8_avx2,
                           cnclip_resample_vertical_u8_avx512, cnclip_normalize_u8_avx2},
#elif defined(__aarch64__)
    [CNCLIP_ISA_NEON] = {cnclip_resample_widen_u8_neon, cnclip_resample_horizontal_u8_neon,
                         cnclip_resample_vertical_u8_neon, cnclip_normalize_u8_neon},
#endif
};

const cnclip_image_kernels *cnclip_image_kernels_get(cnclip_isa isa) {
  if ((unsigned)isa >= CNCLIP_ISA_COUNT) return NULL;
  int best = (int)isa;
  while (kernel_table[best].widen == NULL) best--;
  return &kernel_table[best];
}

enum { GROUP = 4 }; /* rows that horizontal kernels process at a time when they are fastest */

/* The image's rows in four bytes a pixel, resampled to the processor's width if `horizontal` is
 * set, in rising order. A ring keeps the last `ring_rows` of them, so that no intermediate image
 * is needed. Where the image's own rows can be used as they are, there is no ring. */
typedef struct {
  const cnclip_image *image;
  const cnclip_image_kernels *kernels;
  const cnclip_resample_filter *horizontal; /* NULL: the rows keep their width */
  size_t row_bytes;
  int ring_rows, next; /* rows below `next` are made; the ring has the last of them */
  uint8_t *ring;       /* NULL: the image's own rows are used */
  uint8_t *gathered;   /* GROUP rows of the image in four bytes; NULL: not needed */
} row_source;

static const uint8_t *image_row(const cnclip_image *image, int y) {
  return image->pixels + (ptrdiff_t)y * image->row_stride;
}

static uint8_t *ring_row(const row_source *source, int y) {
  return source->ring + (size_t)(y % source->ring_rows) * source->row_bytes;
}

static const uint8_t *source_row(const row_source *source, int y) {
  return source->ring == NULL ? image_row(source->image, y) : ring_row(source, y);
}

/* Writes row y of an image that does not have four bytes per pixel in four bytes per pixel. */
static void gather_row(const cnclip_image *image, const cnclip_image_kernels *kernels, int y,
                       uint8_t *output) {
  const uint8_t *pixel = image_row(image, y);
  const ptrdiff_t next = image->pixel_stride, channel = image->channel_stride;
  if (next == 3 && channel == 1) {
    kernels->widen(pixel, (size_t)image->width, output);
    return;
  }
  for (int x = 0; x < image->width; x++) {
    const uint8_t *red = pixel + x * next;
    const uint8_t four[4] = {red[0], red[channel], red[2 * channel], 0};
    memcpy(output + (size_t)x * 4, four, sizeof four);
  }
}

/* Makes the next GROUP rows, or up to the last. */
static void make_rows(row_source *source) {
  const cnclip_image *image = source->image;
  const int left = image->height - source->next;
  const int rows = left < GROUP ? left : GROUP;
  const uint8_t *inputs[GROUP];
  uint8_t *outputs[GROUP];
  for (int i = 0; i < rows; i++) {
    const int y = source->next + i;
    outputs[i] = ring_row(source, y);
    if (source->horizontal == NULL) {
      gather_row(image, source->kernels, y, outputs[i]);
    } else if (source->gathered == NULL) {
      inputs[i] = image_row(image, y);
    } else {
      uint8_t *row = source->gathered + (size_t)i * (size_t)image->width * 4;
      gather_row(image, source->kernels, y, row);
      inputs[i] = row;
    }
  }
  if (source->horizontal != NULL) {
    source->kernels->horizontal(source->horizontal, inputs, outputs, rows);
  }
  source->next += rows;
}

/* Makes the missing rows below row `end`. Up to GROUP - 1 rows more may be made; the ring has room
 * for them in addition to a window that ends there. */
static void make_rows_below(row_source *source, int end) {
  if (source->ring == NULL) return;
  while (source->next < end) make_rows(source);
}

/* `window`: rows below an `end` that are still needed. Free the source even after a failure. */
static cnclip_status row_source_init(row_source *source, const cnclip_image *image,
                                     const cnclip_image_kernels *kernels,
                                     const cnclip_resample_filter *horizontal, size_t window,
                                     cnclip_error *error) {
  memset(source, 0, sizeof *source);
  source->image = image;
  source->kernels = kernels;
  source->horizontal = horizontal;
  source->row_bytes = (size_t)(horizontal == NULL ? image->width : horizontal->output_size) * 4;
  if (horizontal == NULL && image->four_bytes) return CNCLIP_OK;

  size_t ring_rows = window + GROUP - 1;
  if (ring_rows > (size_t)image->height) ring_rows = (size_t)image->height;
  source->ring_rows = (int)ring_rows;
  source->ring = cnclip_alloc_array(ring_rows, source->row_bytes);
  if (source->ring == NULL) return cnclip_error_memory(error, "an image's rows");
  if (horizontal != NULL && !image->four_bytes) {
    source->gathered = cnclip_alloc_array((size_t)image->width, (size_t)4 * GROUP);
    if (source->gathered == NULL) return cnclip_error_memory(error, "an image's rows");
  }
  return CNCLIP_OK;
}

static void row_source_free(row_source *source) {
  free(source->ring);
  free(source->gathered);
}

/* The memory of one call. A direction whose size is right has no filter. */
typedef struct {
  const cnclip_image_processor *processor;
  cnclip_resample_filter horizontal, vertical; /* arrays NULL: not needed */
  row_source source;
  const uint8_t **window; /* pointers to the rows of one vertical window */
  uint8_t *tall_rows;     /* GROUP rows as the vertical filter leaves them */
  uint8_t *wide_rows;     /* GROUP rows of r pixels, where the vertical pass comes first */
  float *tensor;          /* the caller's; NULL: the result is `bytes` */
  uint8_t *bytes;         /* the caller's */
} work;

/* `count` pixels of four bytes, with 0 in place of the fourth. */
static void copy_pixels(const uint8_t *pixels, size_t count, uint8_t *output) {
  const uint8_t channels[4] = {255, 255, 255, 0};
  uint32_t mask, pixel;
  memcpy(&mask, channels, 4);
  for (size_t i = 0; i < count; i++) {
    memcpy(&pixel, pixels + i * 4, 4);
    pixel &= mask;
    memcpy(output + i * 4, &pixel, 4);
  }
}

/* Writes row y of the result, from its r pixels of four bytes. */
static void write_row(const work *w, int y, const uint8_t *row) {
  const size_t side = (size_t)w->processor->resolution;
  if (w->tensor == NULL) {
    copy_pixels(row, side, w->bytes + (size_t)y * side * 4);
    return;
  }
  w->processor->kernels->normalize(&w->processor->constants, row, side,
                                   w->tensor + (size_t)y * side, side * side);
}

/* Applies the vertical filter for row y of the result to the source's rows. */
static void resample_column_window(work *w, int y, uint8_t *output) {
  const int first = w->vertical.first[y], count = w->vertical.count[y];
  make_rows_below(&w->source, first + count);
  for (int i = 0; i < count; i++) w->window[i] = source_row(&w->source, first + i);
  w->processor->kernels->vertical(&w->vertical, y, w->window, w->source.row_bytes, output);
}

static void run_source_only(work *w) {
  for (int y = 0; y < w->processor->resolution; y++) {
    make_rows_below(&w->source, y + 1);
    write_row(w, y, source_row(&w->source, y));
  }
}

/* The source's rows have their final width. */
static void run_vertical_last(work *w) {
  for (int y = 0; y < w->processor->resolution; y++) {
    resample_column_window(w, y, w->tall_rows);
    write_row(w, y, w->tall_rows);
  }
}

/* The source's rows have the image's width. */
static void run_vertical_first(work *w) {
  const int resolution = w->processor->resolution;
  const uint8_t *inputs[GROUP];
  uint8_t *outputs[GROUP];
  for (int i = 0; i < GROUP; i++) {
    inputs[i] = w->tall_rows + (size_t)i * w->source.row_bytes;
    outputs[i] = w->wide_rows + (size_t)i * (size_t)resolution * 4;
  }
  for (int start = 0; start < resolution; start += GROUP) {
    const int rows = resolution - start < GROUP ? resolution - start : GROUP;
    for (int i = 0; i < rows; i++) {
      resample_column_window(w, start + i, w->tall_rows + (size_t)i * w->source.row_bytes);
    }
    w->processor->kernels->horizontal(&w->horizontal, inputs, outputs, rows);
    for (int i = 0; i < rows; i++) write_row(w, start + i, outputs[i]);
  }
}

/* Filters and memory for an image of at least one pixel. Free the work even after a failure. */
static cnclip_status work_init(work *w, const cnclip_image *image, bool vertical_first,
                               cnclip_error *error) {
  const int resolution = w->processor->resolution;
  const bool wide = image->width != resolution, tall = image->height != resolution;
  cnclip_status status = CNCLIP_OK;
  if (wide) status = cnclip_resample_filter_init(&w->horizontal, image->width, resolution, error);
  if (status != CNCLIP_OK) return status;
  if (tall) status = cnclip_resample_filter_init(&w->vertical, image->height, resolution, error);
  if (status != CNCLIP_OK) return status;

  status = row_source_init(&w->source, image, w->processor->kernels,
                           wide && !vertical_first ? &w->horizontal : NULL,
                           tall ? w->vertical.capacity : 1, error);
  if (status != CNCLIP_OK || !tall) return status;
  w->window = cnclip_alloc_array(w->vertical.capacity, sizeof *w->window);
  w->tall_rows = cnclip_alloc_array(w->source.row_bytes, GROUP);
  w->wide_rows = cnclip_alloc_array((size_t)resolution, (size_t)4 * GROUP);
  if (w->window == NULL || w->tall_rows == NULL || w->wide_rows == NULL) {
    return cnclip_error_memory(error, "an image's rows");
  }
  return CNCLIP_OK;
}

static void work_free(work *w) {
  free(w->wide_rows);
  free(w->tall_rows);
  free(w->window);
  row_source_free(&w->source);
  cnclip_resample_filter_free(&w->vertical);
  cnclip_resample_filter_free(&w->horizontal);
}

/* Resamples the image to the work's result. */
static cnclip_status resample(work *w, const cnclip_image *image, cnclip_error *error) {
  const int resolution = w->processor->resolution;
  cnclip_status status = cnclip_image_check_size(image->width, image->height, error);
  if (status != CNCLIP_OK) return status;
  const bool vertical_first =
      image->width != resolution &&
      cnclip_resample_is_vertical_first(image->width, image->height, resolution);
  status = work_init(w, image, vertical_first, error);
  if (status != CNCLIP_OK) goto exit;
  if (image->height == resolution) {
    run_source_only(w);
  } else if (vertical_first) {
    run_vertical_first(w);
  } else {
    run_vertical_last(w);
  }

exit:
  work_free(w);
  return status;
}

cnclip_status cnclip_image_process(const cnclip_image_processor *processor,
                                   const cnclip_image *image, float *tensor, cnclip_error *error) {
  return resample(&(work){.processor = processor, .tensor = tensor}, image, error);
}

cnclip_status cnclip_image_resize(const cnclip_image_processor *processor,
                                  const cnclip_image *image, uint8_t *bytes, cnclip_error *error) {
  return resample(&(work){.processor = processor, .bytes = bytes}, image, error);
}

static void narrow(const cnclip_image_kernels *kernels, const cnclip_resample_filter *filter,
                   const cnclip_image *part, uint8_t *output, size_t output_stride) {
  for (int start = 0; start < part->height; start += GROUP) {
    const int rows = part->height - start < GROUP ? part->height - start : GROUP;
    const uint8_t *inputs[GROUP];
    uint8_t *outputs[GROUP];
    for (int i = 0; i < rows; i++) {
      inputs[i] = image_row(part, start + i);
      outputs[i] = output + (size_t)(start + i) * output_stride;
    }
    kernels->horizontal(filter, inputs, outputs, rows);
  }
}

static void shorten(const cnclip_image_kernels *kernels, const cnclip_resample_filter *filter,
                    const cnclip_image *part, const uint8_t **window, uint8_t *output,
                    size_t output_stride) {
  for (int y = 0; y < filter->output_size; y++) {
    for (int i = 0; i < filter->count[y]; i++) window[i] = image_row(part, filter->first[y] + i);
    kernels->vertical(filter, y, window, (size_t)part->width * 4,
                      output + (size_t)y * output_stride);
  }
}

cnclip_status cnclip_image_first_pass(const cnclip_image_processor *processor,
                                      const cnclip_image *part, bool vertical, uint8_t *output,
                                      size_t output_stride, cnclip_error *error) {
  cnclip_resample_filter filter = {0};
  const uint8_t **window = NULL;
  cnclip_status status = cnclip_resample_filter_init(&filter, vertical ? part->height : part->width,
                                                     processor->resolution, error);
  if (status != CNCLIP_OK) goto exit;
  if (!vertical) {
    narrow(processor->kernels, &filter, part, output, output_stride);
    goto exit;
  }
  window = cnclip_alloc_array(filter.capacity, sizeof *window);
  if (window == NULL) {
    status = cnclip_error_memory(error, "an image's rows");
    goto exit;
  }
  shorten(processor->kernels, &filter, part, window, output, output_stride);

exit:
  free(window);
  cnclip_resample_filter_free(&filter);
  return status;
}

static cnclip_status check_constants(const float mean[3], const float standard_deviation[3],
                                     cnclip_error *error) {
  for (int channel = 0; channel < 3; channel++) {
    if (!isfinite(mean[channel])) {
      return cnclip_error_set(error, CNCLIP_ERROR_ARGUMENT, "mean[%d] is not finite", channel);
    }
    if (!isfinite(standard_deviation[channel]) || !(standard_deviation[channel] > 0)) {
      return cnclip_error_set(error, CNCLIP_ERROR_ARGUMENT, "std[%d] is not positive and finite",
                              channel);
    }
  }
  return CNCLIP_OK;
}

cnclip_status cnclip_image_processor_new(int resolution, const float mean[3],
                                         const float standard_deviation[3], cnclip_isa isa,
                                         cnclip_image_processor **ret_processor,
                                         cnclip_error *error) {
  *ret_processor = NULL;
  if (!cnclip_isa_supported(isa)) {
    return cnclip_error_set(error, CNCLIP_ERROR_ARGUMENT,
                            "this machine or this build lacks instruction set %d", (int)isa);
  }
  if (resolution < 1 || resolution > CNCLIP_IMAGE_MAX_RESOLUTION) {
    return cnclip_error_set(error, CNCLIP_ERROR_ARGUMENT, "resolution %d is not within 1..%d",
                            resolution, CNCLIP_IMAGE_MAX_RESOLUTION);
  }
  cnclip_status status = check_constants(mean, standard_deviation, error);
  if (status != CNCLIP_OK) return status;
  cnclip_image_processor *processor = malloc(sizeof *processor);
  if (processor == NULL) return cnclip_error_memory(error, "an image processor");
  processor->resolution = resolution;
  processor->kernels = cnclip_image_kernels_get(isa);
  cnclip_normalize_constants_init(&processor->constants, mean, standard_deviation);
  *ret_processor = processor;
  return CNCLIP_OK;
}

void cnclip_image_processor_free(cnclip_image_processor *processor) {
  free(processor);
}

int cnclip_image_processor_resolution(const cnclip_image_processor *processor) {
  return processor->resolution;
}

const float (*cnclip_image_processor_normalized(const cnclip_image_processor *processor))[256] {
  return processor->constants.table;
}
