#include "image/normalize.h"

#include <string.h>

void cnclip_normalize_constants_init(cnclip_normalize_constants *constants, const float mean[3],
                                     const float standard_deviation[3]) {
  memcpy(constants->mean, mean, sizeof constants->mean);
  memcpy(constants->standard_deviation, standard_deviation, sizeof constants->standard_deviation);
  for (int channel = 0; channel < 3; channel++) {
    for (int byte = 0; byte < 256; byte++) {
      float scaled = (float)byte / 255.0f;
      float centered = scaled - mean[channel];
      constants->table[channel][byte] = centered / standard_deviation[channel];
    }
  }
}
