"""The content of `modelscope.preprocessors`: opens images, makes the model's tensors."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from .._checks import check_integer
from ..archive import MAX_RESOLUTION, ArchiveInfo
from ..models import open_archive
from ..preprocessors import multi_modal
from ..preprocessors.image import load_image
from ..preprocessors.inputs import split_input
from ._choice import foreign_type, own_name
from ._installed import installed_object
from .constant import ModeKeys
from .tokenizer import FullTokenizer


class Preprocessor:
    """The base of preprocessors."""

    def __init__(self, mode: str = ModeKeys.INFERENCE, *_: Any, **__: Any) -> None:
        self.mode = mode

    def __call__(self, input: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """Make a model's inputs."""
        raise NotImplementedError(f"{type(self).__name__}.__call__")

    @classmethod
    def from_pretrained(
        cls,
        model_name_or_path: str | PathLike[str],
        revision: str | None = None,
        *arguments: Any,
        **keywords: Any,
    ) -> Any:
        """The preprocessor of a model: a `CLIPPreprocessor`, or of ModelScope for other models."""
        name = str(model_name_or_path)
        other = foreign_type(name, revision)
        if other is None:
            return CLIPPreprocessor(name, revision=revision)
        what = f"a model of type {other!r}"
        theirs = installed_object("modelscope.preprocessors", "Preprocessor", name, what)
        return theirs.from_pretrained(model_name_or_path, revision, *arguments, **keywords)


class CLIPPreprocessor(Preprocessor):
    """Chinese-CLIP's preprocessing, with tensors as results.

    Attributes:
        tokenizer: The tokenizer of texts.
        image_resolution: Pixels per side of the tensors.
        input_keys: The keys of images and texts in the input, by `'img'` and `'text'`.
        is_plain: Whether the tensors are those of cnclip's pipeline for the model.
    """

    def __init__(
        self,
        model_dir: str | PathLike[str] | ArchiveInfo,
        mode: str = ModeKeys.INFERENCE,
        *_: Any,
        revision: str | None = None,
        tokenizer: Any = None,
        resolution: Any = None,
        **__: Any,
    ) -> None:
        """Take the preprocessing of a model.

        Args:
            model_dir: The model: its directory, its name on the hub, or an open archive.
            mode: With `ModeKeys.TRAIN`, images are changed at random, see
                `cnclip.train.auto_augment`. `random.seed` makes the changes repeatable.
            revision: Branch, tag or commit on the hub.
            tokenizer: A `FullTokenizer` in the place of the model's.
            resolution: Pixels per side in the place of the model's.

        Raises:
            InputTypeError, InvalidInputError: the resolution cannot be used.
        """
        super().__init__(mode)
        info = model_dir
        if not isinstance(info, ArchiveInfo):
            info = open_archive(own_name(str(model_dir)), revision)
        self.image_resolution = info.resolution
        if resolution is not None:
            self.image_resolution = check_integer(resolution, "resolution", 1, MAX_RESOLUTION)
        is_same = self.image_resolution == info.resolution
        info = info if is_same else replace(info, resolution=self.image_resolution)
        self._own = multi_modal.CLIPPreprocessor(info)
        has_own = isinstance(tokenizer, FullTokenizer)
        self.tokenizer = tokenizer if has_own else FullTokenizer.from_vocabulary(info.vocabulary)
        self.is_plain = type(self) is CLIPPreprocessor and is_same and not has_own
        self.is_plain &= mode != ModeKeys.TRAIN
        self.input_keys = {"img": "img", "text": "text"}

    def set_input_img_key(self, new_key: str) -> None:
        """Choose the key of images in the input."""
        self.input_keys["img"] = new_key

    def set_input_text_key(self, new_key: str) -> None:
        """Choose the key of texts in the input."""
        self.input_keys["text"] = new_key

    def chosen(self, input: Mapping[str, Any]) -> dict[str, Any]:
        """The images and texts of an input, without its other values and without None.

        Raises:
            InputTypeError: not a dict.
        """
        if not isinstance(input, Mapping):
            split_input(input)  # raises
        found = {key: input.get(name) for key, name in self.input_keys.items()}
        return {key: value for key, value in found.items() if value is not None}

    def img_preprocess(self, image: Any) -> torch.Tensor:
        """An image, as `forward` takes it, to float32 [3, r, r]."""
        return self._pixels([image])[0]

    def tokenize(self, texts: str | list[str], context_length: int | None = None) -> torch.Tensor:
        """Ids of texts, int64 [n, context_length], by default of the model's context length."""
        length = self._own.context_length if context_length is None else context_length
        ids, _ = self.tokenizer.encode([texts] if isinstance(texts, str) else list(texts), length)
        return torch.from_numpy(ids)

    def __call__(self, input: Mapping[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        """Make the model's tensors.

        Args:
            input: Images and texts, as the pipeline's `forward` takes them. Other keys are ignored.

        Returns:
            {'img': float32 [n, 3, r, r], 'text': int64 [n, l]}: the keys that the input has.
        """
        given = self.chosen(input)
        images, texts = split_input(given)
        found = {} if images is None else {"img": self._pixels(given["img"])}
        return found if texts is None else found | {"text": self.tokenize(list(texts))}

    def _pixels(self, images: Any) -> torch.Tensor:
        if self.mode == ModeKeys.TRAIN:
            items, _ = split_input({"img": images})
            images = [self._changed(item.image) for item in items or ()]
        return torch.from_numpy(self._own({"img": images})["img"])

    @staticmethod
    def _open(image: Any) -> Image.Image:
        if isinstance(image, np.ndarray):
            return Image.fromarray(image)
        return image if isinstance(image, Image.Image) else load_image(image)

    def _changed(self, image: Any) -> Image.Image:
        from ..train.auto_augment import auto_augment

        generator = np.random.default_rng(random.getrandbits(64))
        return auto_augment(self._open(image).convert("RGB"), generator, self.image_resolution)


class LoadImage:
    """Opens an image; the result is a dict."""

    def __init__(self, mode: str = "rgb", backend: str = "pillow") -> None:
        self.mode, self.backend = mode.upper(), backend

    def __call__(self, input: str | Mapping[str, Any]) -> dict[str, Any]:
        """Open the image of a path or URL, or of a dict's `'filename'`.

        Returns:
            {'filename', 'img', 'img_shape': (height, width, 3), 'img_field': 'img'} and the keys of
            the input. The image is turned by its EXIF orientation, of mode `mode`; with the backend
            `'cv2'` an array [height, width, 3], blue first unless `mode` is RGB.
        """
        name = input["filename"] if isinstance(input, Mapping) else input
        image: Any = load_image(name)
        shape = (image.height, image.width, 3)
        if self.backend == "cv2":
            image = np.asarray(image)
            image = image.copy() if self.mode == "RGB" else image[..., ::-1].copy()
        elif self.mode != "RGB":
            image = image.convert(self.mode)
        found = {"filename": name, "img": image, "img_shape": shape, "img_field": "img"}
        return {**input, **found} if isinstance(input, Mapping) else found

    def __repr__(self) -> str:
        return f"LoadImage(mode={self.mode})"

    @staticmethod
    def convert_to_img(input: Any) -> Image.Image:
        """A path, URL, image or array (blue first) to an image of mode RGB."""
        if isinstance(input, Mapping):
            input = input["image"]
        if isinstance(input, Image.Image):
            return input.convert("RGB")
        if isinstance(input, np.ndarray):
            ordered = input if input.ndim == 2 else input[..., ::-1]
            return Image.fromarray(ordered.astype(np.uint8)).convert("RGB")
        return load_image(input)

    @staticmethod
    def convert_to_ndarray(input: Any) -> NDArray[np.uint8]:
        """A path, URL, image or array (blue first) to an array, red first."""
        return np.array(LoadImage.convert_to_img(input))


__all__ = ["CLIPPreprocessor", "LoadImage", "Preprocessor", "load_image"]
