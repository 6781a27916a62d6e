"""Images and texts to the tensors of the model, as cn_clip makes them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import torch
from PIL import Image

from ... import _core
from ..._checks import check_integer
from ...archive import MAX_RESOLUTION
from ...checkpoints.vocabulary import PUBLISHED_VOCABULARY
from ...errors import InputTypeError
from ...modeling.config import CLIP_MEAN, CLIP_STD, CONTEXT_LENGTH
from ...preprocessors.full_tokenizer import FullTokenizer
from ...preprocessors.multi_modal import open_pixels

Channels: TypeAlias = tuple[float, float, float]

_tokenizer = FullTokenizer(PUBLISHED_VOCABULARY)
_MIN_LENGTH, _MAX_LENGTH = 2, 1 << 20


def tokenize(texts: str | Iterable[str], context_length: int = CONTEXT_LENGTH) -> torch.Tensor:
    """Token ids of texts: [CLS], WordPiece, [SEP], cut to the context length, filled with 0.

    Args:
        texts: One text or several.
        context_length: Columns of the result; 52 for the published models.

    Returns:
        int64 [n, context_length].

    Raises:
        InputTypeError: a text is not a str; names it.
        InvalidInputError: the context length is too small or too large.
    """
    length = check_integer(context_length, "context_length", _MIN_LENGTH, _MAX_LENGTH)
    ids, _ = _tokenizer.encode([texts] if isinstance(texts, str) else list(texts), length)
    return torch.from_numpy(ids)


class ImageTransform:
    """Images to the model's input, equal to the bit to cn_clip's `image_transform`.

    The order of its steps: resize to a square with Pillow's bicubic filter in the image's own mode,
    convert to RGB, scale to 0..1, subtract CLIP's mean and divide by its standard deviation. It can
    be pickled, as the workers of a DataLoader need it.

    Attributes:
        resolution: Pixels per side of the result.
        mean: Of red, green and blue, scaled to 0..1.
        std: Standard deviation of the same.
    """

    def __init__(
        self, resolution: int, mean: Channels = CLIP_MEAN, std: Channels = CLIP_STD
    ) -> None:
        self.resolution, self.mean, self.std = resolution, mean, std
        self._processor = _core.ImageProcessor(resolution, mean, std)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Make the input of one image.

        Args:
            image: A Pillow image of any mode.

        Returns:
            float32 [3, r, r].

        Raises:
            InputTypeError: not a Pillow image.
            InvalidInputError, ImageError: it has no pixels, or cannot be decoded.
        """
        if not isinstance(image, Image.Image):
            reason = f"expected PIL.Image.Image, got {type(image).__name__}"
            raise InputTypeError(reason, item="image")
        pixels = open_pixels(image, self.resolution)
        return torch.from_numpy(self._processor.process([pixels])[0])

    def __reduce__(self) -> tuple[type[ImageTransform], tuple[int, Channels, Channels]]:
        return ImageTransform, (self.resolution, self.mean, self.std)

    def __repr__(self) -> str:
        return f"ImageTransform({self.resolution})"


def image_transform(image_size: int = 224) -> ImageTransform:
    """The preprocessing of images for a model; `load_from_name` returns that of its model.

    Args:
        image_size: Pixels per side of the model's input.

    Raises:
        InputTypeError, InvalidInputError: not a size that a model can have.
    """
    return ImageTransform(check_integer(image_size, "image_size", 1, MAX_RESOLUTION))
