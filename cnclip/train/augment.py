"""Random changes of images in training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from .auto_augment import auto_augment
from .crops import random_box

Random = np.random.Generator

# RandAugment: the strength of an operation, from 0 to 1, and the operations per image.
MAGNITUDE, OPERATIONS = 0.9, 2


def augment(image: Image.Image, policy: str, random: Random, side: int = 224) -> Image.Image:
    """Change an image at random.

    Args:
        image: An image of any mode; the result is RGB, unless the policy is `'none'`.
        policy: `'none'`: no change. `'photo'`: a crop of 90 to 100 % of the area, like
            cn_clip's `use-augment`, and two operations of RandAugment (Cubuk et al. 2019,
            arXiv:1909.13719), without those that invert colours. `'auto'`: ModelScope's, see
            `auto_augment`. `'drawing'`: for icons and drawings, see `_drawing`.
        random: The source of all random numbers.
        side: Pixels per side of the model's input, and of the result of `'auto'`.
    """
    if policy == "photo":
        return _photo(image.convert("RGB"), random)
    if policy == "auto":
        return auto_augment(image.convert("RGB"), random, side)
    if policy == "drawing":
        return _drawing(image.convert("RGB"), random)
    return image


def _photo(image: Image.Image, random: Random) -> Image.Image:
    # Nearly square, since preprocessing makes every image square.
    box = random_box(image.size, random, min_share=0.9, ratio=4 / 3)
    image = image if box is None else image.crop(box)
    for index in random.integers(len(_OPERATIONS), size=OPERATIONS):
        image = _OPERATIONS[index](image, random)
    return image


def _signed(random: Random) -> float:
    return float(random.choice((-1.0, 1.0))) * MAGNITUDE


def _mean_colour(image: Image.Image) -> tuple[int, ...]:
    return image.resize((1, 1)).getpixel((0, 0))  # type: ignore[return-value]


def _affine(
    image: Image.Image, matrix: Sequence[float], fill: float | tuple[int, ...] | None = None
) -> Image.Image:
    """Map each point of the result to a point of the image; fill the rest with a colour."""
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        matrix,
        Image.Resampling.BILINEAR,
        fillcolor=_mean_colour(image) if fill is None else fill,
    )


def _rotate(image: Image.Image, random: Random) -> Image.Image:
    return image.rotate(
        30 * _signed(random), Image.Resampling.BILINEAR, fillcolor=_mean_colour(image)
    )


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda image, random: kind(image).enhance(1 + 0.9 * _signed(random))


Operation = Callable[[Image.Image, Random], Image.Image]

# The affine ones: shear and shift, each along x and along y.
_OPERATIONS: tuple[Operation, ...] = (
    lambda image, random: image,
    lambda image, random: ImageOps.autocontrast(image),
    lambda image, random: ImageOps.equalize(image),
    lambda image, random: ImageOps.posterize(image, 4),
    _rotate,
    lambda image, random: _affine(image, (1, 0.3 * _signed(random), 0, 0, 1, 0)),
    lambda image, random: _affine(image, (1, 0, 0, 0.3 * _signed(random), 1, 0)),
    lambda image, random: _affine(image, (1, 0, 0.3 * _signed(random) * image.width, 0, 1, 0)),
    lambda image, random: _affine(image, (1, 0, 0, 0, 1, 0.3 * _signed(random) * image.height)),
    _enhance(ImageEnhance.Color),
    _enhance(ImageEnhance.Contrast),
    _enhance(ImageEnhance.Brightness),
    _enhance(ImageEnhance.Sharpness),
)


# --- Drawings ------------------------------------------------------------------------------------

_LUMINANCE = np.array([0.299, 0.587, 0.114])
_DIAGONAL = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)


def _drawing(image: Image.Image, random: Random) -> Image.Image:
    """Imitate another artist's drawing: other shapes, colours, edges, strokes and shades."""
    image = _warped(image, random)
    kind = random.random()
    if kind < 0.1:  # thicker dark strokes
        image = image.filter(ImageFilter.MinFilter(3))
    elif kind < 0.16:  # thinner dark strokes
        image = image.filter(ImageFilter.MaxFilter(3))
    elif kind < 0.26:  # flat colours instead of gradients
        image = ImageOps.posterize(image, int(random.integers(2, 4)))
    if random.random() < 0.5:
        soft = image.filter(ImageFilter.GaussianBlur(1))
        image = Image.blend(soft, image, random.uniform(0, 2.5))
    image = _recoloured(image, random)
    return _covered(image, random) if random.random() < 0.2 else image


def _covered(image: Image.Image, random: Random) -> Image.Image:
    """Cover a random rectangle, up to 0.4 of each side, with one colour."""
    width, height = (int(side * random.uniform(0.1, 0.4)) for side in image.size)
    left = int(random.integers(image.width - width + 1))
    top = int(random.integers(image.height - height + 1))
    colour = tuple(random.integers(256, size=3).tolist())
    image.paste(colour, (left, top, left + width, top + height))
    return image


def _warped(image: Image.Image, random: Random) -> Image.Image:
    """Rotate by up to 15 degrees, scale, shear and shift; fill with the colour of a corner."""
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
    return _affine(image, matrix, image.getpixel((0, 0)))


def _recoloured(image: Image.Image, random: Random) -> Image.Image:
    """Rotate the hue by up to 20 degrees; change saturation, contrast, brightness and channels."""
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
