"""Random changes of pictures in training, drawn from a generator of the pair's own."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

Random = np.random.Generator

# Of RandAugment, on its scale of 10; and how many operations a picture gets.
MAGNITUDE, OPERATIONS = 0.9, 2


def augment(picture: Image.Image, policy: str, random: Random) -> Image.Image:
    """A picture as training sees it this time.

    Args:
        picture: Of any mode; is made RGB but for `'none'`.
        policy: `'none'`. `'photo'`: a crop of 90 to 100 % of the area, as cn_clip's
            `use-augment`, and two operations of RandAugment (Cubuk et al. 2019, arXiv:1909.13719),
            without those that turn colours around. `'drawing'`: see `_drawing`.
        random: Decides everything.
    """
    if policy == "photo":
        return _photo(picture.convert("RGB"), random)
    if policy == "drawing":
        return _drawing(picture.convert("RGB"), random)
    return picture


def _photo(picture: Image.Image, random: Random) -> Image.Image:
    picture = _cropped(picture, random, least=0.9, ratio=4 / 3)
    for index in random.integers(len(_OPERATIONS), size=OPERATIONS):
        picture = _OPERATIONS[index](picture, random)
    return picture


def _cropped(picture: Image.Image, random: Random, least: float, ratio: float) -> Image.Image:
    """A rectangle of at least a share of the area, its sides' ratio changed by at most `ratio`."""
    width, height = picture.size
    for _ in range(10):
        area = random.uniform(least, 1) * width * height
        shape = math.exp(random.uniform(-math.log(ratio), math.log(ratio)))
        # As wide as it is high: the model sees a square of it.
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            left = int(random.integers(width - w + 1))
            top = int(random.integers(height - h + 1))
            return picture.crop((left, top, left + w, top + h))
    return picture


def _signed(random: Random) -> float:
    return float(random.choice((-1.0, 1.0))) * MAGNITUDE


def _mean_colour(picture: Image.Image) -> tuple[int, ...]:
    return picture.resize((1, 1)).getpixel((0, 0))  # type: ignore[return-value]


def _moved(picture: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return picture.transform(
        picture.size,
        Image.Transform.AFFINE,
        matrix,
        Image.Resampling.BILINEAR,
        fillcolor=_mean_colour(picture),
    )


def _rotate(picture: Image.Image, random: Random) -> Image.Image:
    return picture.rotate(
        30 * _signed(random), Image.Resampling.BILINEAR, fillcolor=_mean_colour(picture)
    )


def _shear_x(picture: Image.Image, random: Random) -> Image.Image:
    return _moved(picture, (1, 0.3 * _signed(random), 0, 0, 1, 0))


def _shear_y(picture: Image.Image, random: Random) -> Image.Image:
    return _moved(picture, (1, 0, 0, 0.3 * _signed(random), 1, 0))


def _shift_x(picture: Image.Image, random: Random) -> Image.Image:
    return _moved(picture, (1, 0, 0.3 * _signed(random) * picture.width, 0, 1, 0))


def _shift_y(picture: Image.Image, random: Random) -> Image.Image:
    return _moved(picture, (1, 0, 0, 0, 1, 0.3 * _signed(random) * picture.height))


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda picture, random: kind(picture).enhance(1 + 0.9 * _signed(random))


def _posterize(picture: Image.Image, random: Random) -> Image.Image:
    return ImageOps.posterize(picture, 4)


Operation = Callable[[Image.Image, Random], Image.Image]

_OPERATIONS: tuple[Operation, ...] = (
    lambda picture, random: picture,
    lambda picture, random: ImageOps.autocontrast(picture),
    lambda picture, random: ImageOps.equalize(picture),
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


def _drawing(picture: Image.Image, random: Random) -> Image.Image:
    """Another hand's drawing of it: bent and recoloured, with other edges, strokes and shades."""
    picture = _bent(picture, random)
    kind = random.random()
    if kind < 0.1:  # thicker dark strokes
        picture = picture.filter(ImageFilter.MinFilter(3))
    elif kind < 0.16:  # thinner ones
        picture = picture.filter(ImageFilter.MaxFilter(3))
    elif kind < 0.26:  # flat colours in place of gradients
        picture = ImageOps.posterize(picture, int(random.integers(2, 4)))
    if random.random() < 0.5:
        soft = picture.filter(ImageFilter.GaussianBlur(1))
        picture = Image.blend(soft, picture, random.uniform(0, 2.5))
    picture = _recoloured(picture, random)
    return _covered(picture, random) if random.random() < 0.2 else picture


def _covered(picture: Image.Image, random: Random) -> Image.Image:
    """A rectangle of up to two fifths a side is of one colour."""
    width, height = (int(side * random.uniform(0.1, 0.4)) for side in picture.size)
    left = int(random.integers(picture.width - width + 1))
    top = int(random.integers(picture.height - height + 1))
    colour = tuple(random.integers(256, size=3).tolist())
    picture.paste(colour, (left, top, left + width, top + height))
    return picture


def _bent(picture: Image.Image, random: Random) -> Image.Image:
    """Turned up to 15 degrees, scaled, sheared and shifted; the ground is that of its corner."""
    angle = math.radians(random.uniform(-15, 15))
    scale, shape = math.exp(random.uniform(-0.15, 0.3)), math.exp(random.uniform(-0.15, 0.15))
    shear = random.uniform(-0.15, 0.15)
    cos, sin = math.cos(angle), math.sin(angle)
    # Where a point of the result lies in the picture, both counted from the middle.
    a, b = scale * shape * cos, scale * (shear * cos - sin)
    d, e = scale * sin, scale / shape * (cos + shear * sin)
    x, y = picture.width / 2, picture.height / 2
    right, down = random.uniform(-0.12, 0.12, size=2)
    matrix = (a, b, x * (1 - a + right) - b * y, d, e, y * (1 - e + down) - d * x)
    return picture.transform(
        picture.size,
        Image.Transform.AFFINE,
        matrix,
        Image.Resampling.BILINEAR,
        fillcolor=picture.getpixel((0, 0)),
    )


def _recoloured(picture: Image.Image, random: Random) -> Image.Image:
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
    return picture.convert("RGB", tuple(rows.ravel().tolist()))
