#include "image.h"

#include <math.h>
#include <string.h>

#include "alloc.h"

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
#endif
};

const cnclip_image_kernels *cnclip_image_kernels_get(cnclip_isa isa) {
  if ((int)isa < 0 || isa >= CNCLIP_ISA_COUNT) return NULL;
  return kernel_table[isa].widen != NULL ? &kernel_table[isa] : NULL;
}

/* The rows of the picture, resampled to the processor's width, in rising order. A ring keeps the
 * last `ring_rows` of them, so that no intermediate picture is needed; where the picture's own rows
 * will do, they are lent and the ring stays empty. Rows are made GROUP at a time. */
enum { GROUP = 4 };

typedef struct {
  const cnclip_image *image;
  const cnclip_image_kernels *kernels;
  const cnclip_resample_filter *horizontal; /* NULL: the width is right */
  size_t row_bytes;                         /* of a resampled row */
  int ring_rows, next; /* rows 0 .. next are made; the ring has the last of them */
  uint8_t *ring;       /* NULL: rows are lent */
  uint8_t *gathered;   /* GROUP rows of the picture in four bytes; NULL: not needed */
} row_source;

static const uint8_t *picture_row(const cnclip_image *image, int y) {
  return image->pixels + (ptrdiff_t)y * image->row_stride;
}

static uint8_t *ring_row(const row_source *source, int y) {
  return source->ring + (size_t)(y % source->ring_rows) * source->row_bytes;
}

static const uint8_t *source_row(const row_source *source, int y) {
  return source->ring == NULL ? picture_row(source->image, y) : ring_row(source, y);
}

/* Writes row y of the picture, which has no four bytes a pixel, in four bytes. */
static void gather_row(const cnclip_image *image, const cnclip_image_kernels *kernels, int y,
                       uint8_t *output) {
  const uint8_t *pixel = picture_row(image, y);
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

/* Makes rows `next` .. `next` + GROUP, or up to the last. */
static void make_rows(row_source *source) {
  const cnclip_image *image = source->image;
  int left = image->height - source->next;
  int rows = left < GROUP ? left : GROUP;
  const uint8_t *inputs[GROUP];
  uint8_t *outputs[GROUP];
  for (int i = 0; i < rows; i++) {
    int y = source->next + i;
    outputs[i] = ring_row(source, y);
    if (source->horizontal == NULL) {
      gather_row(image, source->kernels, y, outputs[i]);
    } else if (source->gathered == NULL) {
      inputs[i] = picture_row(image, y);
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

/* Makes what is missing before row `end`. Up to GROUP - 1 rows more may be made, for which the ring
 * has room beside a window that ends there. */
static void make_rows_before(row_source *source, int end) {
  if (source->ring == NULL) return;
  while (source->next < end) make_rows(source);
}

/* Allocates for windows of at most `window` rows. */
static cnclip_status row_source_init(row_source *source, const cnclip_image *image,
                                     const cnclip_image_kernels *kernels,
                                     const cnclip_resample_filter *horizontal, int resolution,
                                     size_t window, cnclip_error *error) {
  memset(source, 0, sizeof *source);
  source->image = image;
  source->kernels = kernels;
  source->horizontal = horizontal;
  source->row_bytes = (size_t)resolution * 4;
  if (horizontal == NULL && image->four_bytes) return CNCLIP_OK;

  size_t ring_rows = window + GROUP - 1;
  if (ring_rows > (size_t)image->height) ring_rows = (size_t)image->height;
  source->ring_rows = (int)ring_rows;
  source->ring = cnclip_alloc_array(ring_rows, source->row_bytes);
  if (source->ring == NULL) return cnclip_error_memory(error, "a picture's resampled rows");
  if (horizontal != NULL && !image->four_bytes) {
    source->gathered = cnclip_alloc_array((size_t)image->width, (size_t)4 * GROUP);
    if (source->gathered == NULL) return cnclip_error_memory(error, "a picture's rows");
  }
  return CNCLIP_OK;
}

static void row_source_free(row_source *source) {
  free(source->ring);
  free(source->gathered);
}

/* Rows of the answer from rows of the source, through the vertical filter. `window` is scratch for
 * the filter's capacity of pointers, `row` for one row. */
static void resample_columns(const cnclip_image_processor *processor, row_source *source,
                             const cnclip_resample_filter *vertical, const uint8_t **window,
                             uint8_t *row, float *tensor) {
  const cnclip_image_kernels *kernels = processor->kernels;
  size_t side = (size_t)processor->resolution;
  for (int y = 0; y < processor->resolution; y++) {
    int first = vertical->first[y], count = vertical->count[y];
    make_rows_before(source, first + count);
    for (int i = 0; i < count; i++) window[i] = source_row(source, first + i);
    kernels->vertical(vertical, y, window, source->row_bytes, row);
    kernels->normalize(&processor->constants, row, side, tensor + (size_t)y * side, side * side);
  }
}

static void copy_columns(const cnclip_image_processor *processor, row_source *source,
                         float *tensor) {
  size_t side = (size_t)processor->resolution;
  for (int y = 0; y < processor->resolution; y++) {
    make_rows_before(source, y + 1);
    processor->kernels->normalize(&processor->constants, source_row(source, y), side,
                                  tensor + (size_t)y * side, side * side);
  }
}

cnclip_status cnclip_image_process(const cnclip_image_processor *processor,
                                   const cnclip_image *image, float *tensor, cnclip_error *error) {
  cnclip_resample_filter horizontal = {0}, vertical = {0};
  row_source source = {0};
  const uint8_t **window = NULL;
  uint8_t *row = NULL;
  const int resolution = processor->resolution;
  const bool wide = image->width != resolution, tall = image->height != resolution;
  cnclip_status status = CNCLIP_OK;
  if (image->width < 1 || image->height < 1) {
    status = cnclip_error_set(error, CNCLIP_ERROR_ARGUMENT, "a picture of %d x %d has no pixels",
                              image->width, image->height);
    goto exit;
  }
  if (wide) {
    status = cnclip_resample_filter_init(&horizontal, image->width, resolution, error);
    if (status != CNCLIP_OK) goto exit;
  }
  if (tall) {
    status = cnclip_resample_filter_init(&vertical, image->height, resolution, error);
    if (status != CNCLIP_OK) goto exit;
    window = cnclip_alloc_array(vertical.capacity, sizeof *window);
    row = cnclip_alloc_array((size_t)resolution, 4);
    if (window == NULL || row == NULL) {
      status = cnclip_error_memory(error, "a picture's rows");
      goto exit;
    }
  }
  status = row_source_init(&source, image, processor->kernels, wide ? &horizontal : NULL,
                           resolution, tall ? vertical.capacity : 1, error);
  if (status != CNCLIP_OK) goto exit;
  if (tall) {
    resample_columns(processor, &source, &vertical, window, row, tensor);
  } else {
    copy_columns(processor, &source, tensor);
  }

exit:
  row_source_free(&source);
  free(row);
  free(window);
  cnclip_resample_filter_free(&vertical);
  cnclip_resample_filter_free(&horizontal);
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
  const cnclip_image_kernels *kernels = cnclip_image_kernels_get(isa);
  *ret_processor = NULL;
  if (kernels == NULL || !cnclip_isa_supported(isa)) {
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
  processor->kernels = kernels;
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
