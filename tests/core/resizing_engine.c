/* An engine that only resizes, in plain loops over the plan: for test_encoder_resize.py. An image
 * of 13 columns is too large for its memory. */
#include <stdlib.h>

#include "engine/engine.h"

struct cnclip_model {
  int unused;
};

static const cnclip_engine_core *core;

static cnclip_status start(const cnclip_engine_core *lent, cnclip_error *error) {
  (void)error;
  core = lent;
  return CNCLIP_OK;
}

static cnclip_status load(const cnclip_model_options *options, cnclip_model **ret_model,
                          cnclip_error *error) {
  static cnclip_model model;
  *ret_model = &model;
  if (options->resizes) return CNCLIP_OK;
  return core->error_set(error, CNCLIP_ERROR_DEVICE, "it only resizes");
}

static cnclip_status prepare(cnclip_model *model, const char *precision, cnclip_error *error) {
  (void)model, (void)precision, (void)error;
  return CNCLIP_OK;
}

static void free_model(cnclip_model *model) {
  (void)model;
}

/* Pixel `at` of a filter's result, from the bytes of one channel that are `step` apart. */
static uint8_t value_at(const cnclip_resample_filter *filter, int at, const uint8_t *bytes,
                        ptrdiff_t step) {
  int64_t sum = 1 << (CNCLIP_RESAMPLE_PRECISION_BITS - 1);
  for (int i = 0; i < filter->count[at]; i++) {
    sum += (int64_t)filter->coefficients[(size_t)at * filter->capacity + i] *
           bytes[(filter->first[at] + i) * step];
  }
  sum >>= CNCLIP_RESAMPLE_PRECISION_BITS;
  return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

static cnclip_status resize(cnclip_model *model, const cnclip_image *image,
                            const cnclip_image_plan *plan, uint8_t *bytes, cnclip_error *error) {
  (void)model;
  const int side = plan->resolution, width = image->width, height = image->height;
  if (width == 13) return core->error_set(error, CNCLIP_ERROR_MEMORY, "out of memory for it");
  const int lines = plan->is_vertical_first ? width : height;
  uint8_t *between = malloc((size_t)lines * side); /* [lines, r] of one channel */
  for (int channel = 0; channel < 4; channel++) {
    for (int i = 0; i < lines * side; i++) {
      const uint8_t *pixels = image->pixels + channel % 3 * image->channel_stride;
      between[i] = plan->is_vertical_first
                       ? value_at(&plan->vertical, i % side,
                                  pixels + i / side * image->pixel_stride, image->row_stride)
                       : value_at(&plan->horizontal, i % side,
                                  pixels + i / side * image->row_stride, image->pixel_stride);
    }
    for (int y = 0; y < side; y++) {
      for (int x = 0; x < side; x++) {
        const int first = plan->is_vertical_first ? y : x, second = plan->is_vertical_first ? x : y;
        const cnclip_resample_filter *filter =
            plan->is_vertical_first ? &plan->horizontal : &plan->vertical;
        const uint8_t value = value_at(filter, second, between + first, side);
        bytes[(y * side + x) * 4 + channel] = channel == 3 ? 0 : value;
      }
    }
  }
  free(between);
  return CNCLIP_OK;
}

const cnclip_engine *cnclip_engine_get(void) {
  static const cnclip_engine engine = {
      .api = CNCLIP_ENGINE_API,
      .name = "an engine that resizes",
      .start = start,
      .load = load,
      .prepare = prepare,
      .resize = resize,
      .free = free_model,
  };
  return &engine;
}
