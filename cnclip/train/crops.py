"""Random crops."""

from __future__ import annotations

import math

import numpy as np

_ATTEMPTS = 10


def random_box(
    size: tuple[int, int], random: np.random.Generator, min_share: float, ratio: float
) -> tuple[int, int, int, int] | None:
    """A box of at least a share of an image's area; None if none is found in ten attempts.

    Args:
        size: Width and height of the image.
        random: The source of all random numbers.
        min_share: The smallest share of the area, up to 1.
        ratio: Width / height is between 1 / ratio and ratio.

    Returns:
        Left, top, right and bottom, as Pillow's `crop` takes them.
    """
    width, height = size
    for _ in range(_ATTEMPTS):
        area = random.uniform(min_share, 1) * width * height
        shape = math.exp(random.uniform(-math.log(ratio), math.log(ratio)))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            left = int(random.integers(width - w + 1))
            top = int(random.integers(height - h + 1))
            return left, top, left + w, top + h
    return None
