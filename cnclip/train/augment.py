"""Random changes of images in training, drawn from a generator of the pair's own."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

Random = np.random.Generator

# Of RandAugment, on its scale of 10; and how many operations an image gets.
MAGNITUDE, OPERATIONS = 0.9, 2


def augment(image: Image.Image, policy: str, random: Random) -> Image.Image:
    """An image as training sees it this time.

    Args:
        image: Of any mode; is made RGB but for `'none'`.
        policy: `'none'`. `'photo'`: a crop of 90 to 100 % of the area, as cn_clip's
            `use-augment`, and two operations of RandAugment (Cubuk et al. 2019, arXiv:1909.13719),
            without those that turn colours around. `'drawing'`: see `_drawing`.
        random: Decides everything.
    """
    if policy == "photo":
        return _photo(image.convert("RGB"), random)
    if policy == "drawing":
        return _drawing(image.convert("RGB"), random)
    return image


def _photo(image: Image.Image, random: Random) -> Image.Image:
    image = _cropped(image, random, least=0.9, ratio=4 / 3)
    for index in random.integers(len(_OPERATIONS), size=OPERATIONS):
        image = _OPERATIONS[index](image, random)
    return image


def _cropped(image: Image.Image, random: Random, least: float, ratio: float) -> Image.Image:
    """A rectangle of at least a share of the area, its sides' ratio changed by at most `ratio`."""
    width, height = image.size
    for _ in range(10):
        area = random.uniform(least, 1) * width * height
        shape = math.exp(random.uniform(-math.log(ratio), math.log(ratio)))
        # As wide as it is high: the model sees a square of it.
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            left = int(random.integers(width - w + 1))
            top = int(random.integers(height - h + 1))
            return image.crop((left, top, left + w, top + h))
    return image


def _signed(random: Random) -> float:
    return float(random.choice((-1.0, 1.0))) * MAGNITUDE


def _mean_colour(image: Image.Image) -> tuple[int, ...]:
    return image.resize((1, 1)).getpixel((0, 0))  # type: ignore[return-value]


def _moved(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        matrix,
        Image.Resampling.BILINEAR,
        fillcolor=_mean_colour(image),
    )


def _rotate(image: Image.Image, random: Random) -> Image.Image:
    return image.rotate(
        30 * _signed(random), Image.Resampling.BILINEAR, fillcolor=_mean_colour(image)
    )


def _shear_x(image: Image.Image, random: Random) -> Image.Image:
    return _moved(image, (1, 0.3 * _signed(random), 0, 0, 1, 0))


def _shear_y(image: Image.Image, random: Random) -> Image.Image:
    return _moved(image, (1, 0, 0, 0.3 * _signed(random), 1, 0))


def _shift_x(image: Image.Image, random: Random) -> Image.Image:
    return _moved(image, (1, 0, 0.3 * _signed(random) * image.width, 0, 1, 0))


def _shift_y(image: Image.Image, random: Random) -> Image.Image:
    return _moved(image, (1, 0, 0, 0, 1, 0.3 * _signed(random) * image.height))


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda image, random: kind(image).enhance(1 + 0.9 * _signed(random))


def _posterize(image: Image.Image, random: Random) -> Image.Image:
    return ImageOps.posterize(image, 4)


Operation = Callable[[Image.Image, Random], Image.Image]

_OPERATIONS: tuple[Operation, ...] = (
    lambda image, random: image,
    lambda image, random: ImageOps.autocontrast(image),
    lambda image, random: ImageOps.equalize(image),
    _posterize,
    _rotate,
    _shear_x,
    _shear_y,
    _shift_x,
    _shift_y,
    _enhance(ImageEnhance.Color),
    _enhance(ImageEnhance.Contrast),
    _enhance(ImageEnhance.Brightness),
    _enhance(ImageEnhance.Sharpness),
)


# --- Drawings ------------------------------------------------------------------------------------

_LUMINANCE = np.array([0.299, 0.587, 0.114])
_DIAGONAL = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)


def _drawing(image: Image.Image, random: Random) -> Image.Image:
    """Another hand's drawing of it: bent and recoloured, with other edges, strokes and shades."""
    image = _bent(image, random)
    kind = random.random()
    if kind < 0.1:  # thicker dark strokes
        image = image.filter(ImageFilter.MinFilter(3))
    elif kind < 0.16:  # thinner ones
        image = image.filter(ImageFilter.MaxFilter(3))
    elif kind < 0.26:  # flat colours in place of gradients
        image = ImageOps.posterize(image, int(random.integers(2, 4)))
    if random.random() < 0.5:
        soft = image.filter(ImageFilter.GaussianBlur(1))
        image = Image.blend(soft, image, random.uniform(0, 2.5))
    image = _recoloured(image, random)
    return _covered(image, random) if random.random() < 0.2 else image


def _covered(image: Image.Image, random: Random) -> Image.Image:
    """A rectangle of up to two fifths a side is of one colour."""
    width, height = (int(side * random.uniform(0.1, 0.4)) for side in image.size)
    left = int(random.integers(image.width - width + 1))
    top = int(random.integers(image.height - height + 1))
    colour = tuple(random.integers(256, size=3).tolist())
    image.paste(colour, (left, top, left + width, top + height))
    return image


def _bent(image: Image.Image, random: Random) -> Image.Image:
    """Turned up to 15 degrees, scaled, sheared and shifted; the ground is that of its corner."""
    angle = math.radians(random.uniform(-15, 15))
    scale, shape = math.exp(random.uniform(-0.15, 0.3)), math.exp(random.uniform(-0.15, 0.15))
    shear = random.uniform(-0.15, 0.15)
    cos, sin = math.cos(angle), math.sin(angle)
    # The matrix maps a point of the result to a point of the image, relative to their centres.
    a, b = scale * shape * cos, scale * (shear * cos - sin)
    d, e = scale * sin, scale / shape * (cos + shear * sin)
    x, y = image.width / 2, image.height / 2
    right, down = random.uniform(-0.12, 0.12, size=2)
    matrix = (a, b, x * (1 - a + right) - b * y, d, e, y * (1 - e + down) - d * x)
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        matrix,
        Image.Resampling.BILINEAR,
        fillcolor=image.getpixel((0, 0)),
    )


def _recoloured(image: Image.Image, random: Random) -> Image.Image:
    """Hue turned up to 20 degrees; saturation, contrast, brightness and channels changed."""
    hue = random.uniform(-0.35, 0.35)
    turn = math.cos(hue) * np.eye(3) + (1 - math.cos(hue)) / 3 + math.sin(hue) * _DIAGONAL
    saturation = math.exp(random.uniform(-0.9, 0.6)) if random.random() < 0.9 else 0.0
    grey = np.tile(_LUMINANCE, (3, 1))
    contrast = math.exp(random.uniform(-0.35, 0.35))
    channels = np.exp(random.normal(scale=0.08, size=(3, 1)))
    matrix = (grey + saturation * (np.eye(3) - grey)) @ turn * contrast * channels
    offset = 255 * ((1 - contrast) * 0.7 + random.uniform(-0.15, 0.15))
    rows = np.column_stack([matrix, np.full(3, offset)])
    return image.convert("RGB", tuple(rows.ravel().tolist()))
