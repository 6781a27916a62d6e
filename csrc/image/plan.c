#include <string.h>

#include "image/image.h"

cnclip_status cnclip_image_check_size(int width, int height, cnclip_error *error) {
  if (width >= 1 && height >= 1) return CNCLIP_OK;
  return cnclip_error_set(error, CNCLIP_ERROR_ARGUMENT, "an image of %d x %d has no pixels", width,
                          height);
}

cnclip_status cnclip_image_plan_init(cnclip_image_plan *plan, int width, int height, int resolution,
                                     cnclip_error *error) {
  memset(plan, 0, sizeof *plan);
  plan->resolution = resolution;
  cnclip_status status = cnclip_image_check_size(width, height, error);
  if (status != CNCLIP_OK) return status;
  plan->is_vertical_first = cnclip_resample_is_vertical_first(width, height, resolution);
  status = cnclip_resample_filter_init(&plan->horizontal, width, resolution, error);
  if (status != CNCLIP_OK) return status;
  status = cnclip_resample_filter_init(&plan->vertical, height, resolution, error);
  if (status != CNCLIP_OK) cnclip_image_plan_free(plan);
  return status;
}

void cnclip_image_plan_free(cnclip_image_plan *plan) {
  cnclip_resample_filter_free(&plan->horizontal);
  cnclip_resample_filter_free(&plan->vertical);
}
