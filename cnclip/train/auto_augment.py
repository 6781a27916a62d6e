"""ModelScope's augmentation: a crop, a mirror image, and AutoAugment's policy for ImageNet."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from .crops import random_box

Random = np.random.Generator
Operation = Callable[[Image.Image, int, Random], Image.Image]

MIN_SHARE, RATIO = 0.9, 4 / 3
MAX_LEVEL = 10  # of an operation's strength
# What a rotation or a shear uncovers: the mean of CLIP's images.
FILL = (123, 117, 104)


def auto_augment(image: Image.Image, random: Random, side: int) -> Image.Image:
    """Change an image as `CLIPPreprocessor` of ModelScope does in the mode `train`.

    A crop of 90 to 100 % of the area, of a width / height from 3/4 to 4/3, resized to a square;
    mirrored in every second case; then one of the 25 pairs of operations that AutoAugment (Cubuk
    et al. 2018, arXiv:1805.09501) found for ImageNet.

    Args:
        image: An image of mode RGB.
        random: The source of all random numbers.
        side: Pixels per side of the result.
    """
    image = image.resize((side, side), Image.Resampling.BICUBIC, box=_crop(image, random))
    if random.random() < 0.5:
        image = ImageOps.mirror(image)
    for name, probability, level in _POLICY[int(random.integers(len(_POLICY)))]:
        if random.random() < probability:
            image = _OPERATIONS[name](image, level, random)
    return image


def _crop(image: Image.Image, random: Random) -> tuple[int, int, int, int]:
    """The box of a crop; of an image that is too narrow or too low for one, the middle."""
    if (box := random_box(image.size, random, MIN_SHARE, RATIO)) is not None:
        return box
    width, height = image.size
    w = max(1, min(width, round(height * RATIO)))
    h = max(1, min(height, round(width * RATIO)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _moved(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    kind, filter = Image.Transform.AFFINE, Image.Resampling.BICUBIC
    return image.transform(image.size, kind, matrix, filter, fillcolor=FILL)


def _signed(value: float, random: Random) -> float:
    return value if random.random() < 0.5 else -value


def _rotate(image: Image.Image, level: int, random: Random) -> Image.Image:
    degrees = _signed(30 * level / MAX_LEVEL, random)
    return image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=FILL)


def _shear(image: Image.Image, level: int, random: Random) -> Image.Image:
    return _moved(image, (1, _signed(0.3 * level / MAX_LEVEL, random), 0, 0, 1, 0))


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda image, level, random: kind(image).enhance(0.1 + 1.8 * level / MAX_LEVEL)


_OPERATIONS: dict[str, Operation] = {
    "autocontrast": lambda image, level, random: ImageOps.autocontrast(image),
    "color": _enhanced(ImageEnhance.Color),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "equalize": lambda image, level, random: ImageOps.equalize(image),
    "invert": lambda image, level, random: ImageOps.invert(image),
    "posterize": lambda image, level, random: ImageOps.posterize(image, 4 + 4 * level // MAX_LEVEL),
    "rotate": _rotate,
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "shear": _shear,
    "solarize": lambda image, level, random: ImageOps.solarize(image, 256 * level // MAX_LEVEL),
}
# The paper's table of ImageNet's policy: operation, probability, level; two in each line.
_TABLE = """
posterize 0.4 8  rotate 0.6 9
solarize 0.6 5  autocontrast 0.6 5
equalize 0.8 8  equalize 0.6 3
posterize 0.6 7  posterize 0.6 6
equalize 0.4 7  solarize 0.2 4
equalize 0.4 4  rotate 0.8 8
solarize 0.6 3  equalize 0.6 7
posterize 0.8 5  equalize 1.0 2
rotate 0.2 3  solarize 0.6 8
equalize 0.6 8  posterize 0.4 6
rotate 0.8 8  color 0.4 0
rotate 0.4 9  equalize 0.6 2
equalize 0.0 7  equalize 0.8 8
invert 0.6 4  equalize 1.0 8
color 0.6 4  contrast 1.0 8
rotate 0.8 8  color 1.0 2
color 0.8 8  solarize 0.8 7
sharpness 0.4 7  invert 0.6 8
shear 0.6 5  equalize 1.0 9
color 0.4 0  equalize 0.6 3
equalize 0.4 7  solarize 0.2 4
solarize 0.6 5  autocontrast 0.6 5
invert 0.6 4  equalize 1.0 8
color 0.6 4  contrast 1.0 8
equalize 0.8 8  equalize 0.6 3
"""


def _pair(line: str) -> list[tuple[str, float, int]]:
    words = line.split()
    return [(words[i], float(words[i + 1]), int(words[i + 2])) for i in (0, 3)]


_POLICY = [_pair(line) for line in _TABLE.strip().splitlines()]
