"""Image preprocessing once more: the arithmetic in plain sight, and Pillow's own answer.

`resize` computes the same as `csrc/image/resample*.c`, with whole images and 64-bit sums in place
of rings, rows and split coefficients. `pillow_tensor` is the definition that both have to meet.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]  # [height, width, 3]
Tensor = NDArray[np.float32]  # [3, r, r]

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
PRECISION_BITS = 22


def bicubic(x: float) -> float:
    """The cubic convolution kernel with a = -0.5."""
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    if x < 2:
        return (((x - 5) * x + 8) * x - 4) * -0.5
    return 0.0


def fixed_point(weight: float) -> int:
    """Rounded half away from zero to 22 bits behind the point."""
    return int((-0.5 if weight < 0 else 0.5) + weight * (1 << PRECISION_BITS))


def window(input_size: int, output_size: int, position: int) -> tuple[int, list[int]]:
    """The first input position that output `position` sees, and the coefficients from there on."""
    scale = float(np.float32(input_size)) / output_size
    filter_scale = max(scale, 1.0)
    support = 2.0 * filter_scale
    inverse_scale = 1.0 / filter_scale
    center = (position + 0.5) * scale
    first = max(int(center - support + 0.5), 0)
    end = min(int(center + support + 0.5), input_size)
    weights = [bicubic((j - center + 0.5) * inverse_scale) for j in range(first, end)]
    total = 0.0
    for weight in weights:  # in this order; sum() may add more exactly than C does
        total += weight
    return first, [fixed_point(weight / total) for weight in weights]


def resample_first_axis(pixels: Pixels, size: int) -> Pixels:
    """Along axis 0, to `size` positions of bytes."""
    if len(pixels) == size:
        return pixels
    result = np.empty((size, *pixels.shape[1:]), np.uint8)
    for position in range(size):
        first, coefficients = window(len(pixels), size, position)
        seen = pixels[first : first + len(coefficients)].astype(np.int64)
        total = np.tensordot(np.array(coefficients, np.int64), seen, 1)
        rounded = (total + (1 << (PRECISION_BITS - 1))) >> PRECISION_BITS
        result[position] = rounded.clip(0, 255)
    return result


def resample_columns(pixels: Pixels, height: int) -> Pixels:
    """To `height` rows."""
    return resample_first_axis(pixels, height)


def resample_rows(pixels: Pixels, width: int) -> Pixels:
    """To `width` columns."""
    return resample_first_axis(pixels.swapaxes(0, 1), width).swapaxes(0, 1)


def resize(pixels: Pixels, resolution: int) -> Pixels:
    """Pillow 13's `Image.resize((r, r), BICUBIC)` of an RGB image."""
    height, width, _ = pixels.shape
    rows_lost, columns_lost = height - resolution, width - resolution
    if rows_lost > 0 and rows_lost > 2 * columns_lost:
        return resample_rows(resample_columns(pixels, resolution), resolution)
    return resample_columns(resample_rows(pixels, resolution), resolution)


def normalize(
    pixels: Pixels, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD
) -> Tensor:
    """torchvision's ToTensor and Normalize: three operations, each rounded to float32."""
    planes = pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
    centered = planes - np.array(mean, np.float32)[:, None, None]
    scaled: Tensor = centered / np.array(std, np.float32)[:, None, None]
    return scaled


def tensor(pixels: Pixels, resolution: int) -> Tensor:
    """What `ImageProcessor(resolution).process([pixels])[0]` has to be."""
    return normalize(resize(pixels, resolution))


def pillow_tensor(image: Pixels | Image.Image, resolution: int) -> Tensor:
    """The same by Pillow."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(np.ascontiguousarray(image))
    resized = image.resize((resolution, resolution), Image.Resampling.BICUBIC).convert("RGB")
    return normalize(np.asarray(resized))
