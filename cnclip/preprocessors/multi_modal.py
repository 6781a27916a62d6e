"""Images and texts to arrays, as `modelscope.preprocessors.multi_modal.CLIPPreprocessor` does."""

from __future__ import annotations

import operator
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .. import _core
from .._cores import is_number_fixed, usable_cores
from ..archive import ArchiveInfo, read_archive
from ..errors import CnclipError, ForkedProcessError, InvalidInputError, ModelRunError
from ._prefetch import map_ahead
from .decoding import DEFAULTS, Decode, DecodingErrors, ImageOptions
from .image import load_image
from .inputs import ImageInput, InputImage, InputImages, Preprocessed, Tensor, split_input

Pixels: TypeAlias = Image.Image | NDArray[np.uint8]
# `_core.ImageProcessor.resize`, or a function with the same result.
Resize: TypeAlias = Callable[[list[Pixels], NDArray[Any] | None], NDArray[np.uint8]]

# Errors of this machine or of the GPU, which other images would raise too.
_NOT_THE_IMAGE = (MemoryError, ModelRunError, ForkedProcessError)

# Images that `preprocess` opens before their tensors are asked for.
_AHEAD = 16
# Of open images together: threads would take longer to start and to wait for each other than to
# resample them, where other processes use the cores. About ten milliseconds of work.
_QUICK_PIXELS = 1 << 23
# Pixels per side of an array, which the core counts in 32 bits.
MAX_SIDE = 2**31 - 1


T = TypeVar("T")


class CLIPPreprocessor:
    """A model's tokenizer and image preprocessing, without its weights.

    Threads may share one.

    Attributes:
        tokenizer: WordPiece over the model's vocabulary.
        image_processor: Resampling and normalising to the model's resolution.
        context_length: Columns of the token ids, 52 for the published models.
        image_resolution: Pixels per side of the tensors.
        num_threads: Threads that open and resample several images.
        image_options: How image files are decoded.
    """

    def __init__(
        self,
        model: str | Path | ArchiveInfo,
        num_threads: int | None = None,
        *,
        decode: Decode = "exact",
    ) -> None:
        """Take the preprocessing of a model.

        Args:
            model: An archive, opened or by its path; `cnclip.models.open_archive` opens other
                models.
            num_threads: Threads for several images; by default one per core that this process may
                use, and for a few open images fewer while other processes use these cores.
            decode: How JPEG files are decoded: `'exact'` or `'fast'`, see `pipeline`.

        Raises:
            InvalidInputError: `decode` has another value.
        """
        info = model if isinstance(model, ArchiveInfo) else read_archive(Path(model))
        self.tokenizer = _core.Tokenizer(info.vocabulary)
        self.image_processor = _core.ImageProcessor(info.resolution, info.mean, info.std)
        self.context_length = info.context_length
        self.image_resolution = info.resolution
        self.num_threads = num_threads or usable_cores()
        self.image_options = ImageOptions(decode=decode, resolution=info.resolution)
        self._resize: Resize = self.image_processor.resize
        self._spares_busy_cores = num_threads is None and not is_number_fixed()

    def __call__(self, input: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Make the model's inputs of images, texts, or both.

        Args:
            input: As for the pipeline's `forward`.

        Returns:
            {'img': float32 [n, 3, r, r], 'text': int64 [n, context_length]}: the keys of the input
            that are not None, with the values that ModelScope's preprocessor returns.

        Raises:
            InputTypeError, InvalidInputError, ImageError: name the item.
        """
        images, texts = split_input(input)
        output: dict[str, NDArray[Any]] = {}
        if images is not None:
            output["img"] = self._process_images(images)
        if texts is not None:
            output["text"] = self.tokenize(list(texts))
        return output

    @overload
    def tokenize(
        self, texts: str | Sequence[str], context_length: int | None = None
    ) -> NDArray[np.int64]: ...
    @overload
    def tokenize(
        self, texts: str | Sequence[str], context_length: int | None = None, *, return_lengths: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...
    def tokenize(
        self,
        texts: str | Sequence[str],
        context_length: int | None = None,
        *,
        return_lengths: bool = False,
    ) -> NDArray[np.int64] | tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Token ids of texts: [CLS], WordPiece, [SEP], cut to the context length, filled with 0.

        Args:
            texts: One text or several.
            context_length: Columns of the result, by default the model's.
            return_lengths: Also return how many ids each text had before the cut.

        Returns:
            int64 [n, context_length]; with `return_lengths` also int64 [n], [CLS] and [SEP]
            counted: texts with a larger number than context_length were cut.
        """
        length = self.context_length if context_length is None else context_length
        sequence = [texts] if isinstance(texts, str) else texts
        ids, lengths = self.tokenizer.encode(sequence, length)
        return (ids, lengths) if return_lengths else ids

    def _process_images(self, images: InputImages) -> NDArray[np.float32]:
        """Images to float32 [n, 3, r, r]."""
        side = self.image_resolution
        if not isinstance(images, list):
            tensors = self.tensors(self.settled(images), self.prepare_input, _AHEAD, strict=True)
            parts = [tensor for _, tensor in tensors if isinstance(tensor, np.ndarray)]
            return np.concatenate([np.empty((0, 3, side, side), np.float32), *parts])
        # Written to their places. Separate tensors and a copy of all of them would be more memory
        # than the allocator keeps until the next call, and new pages take as long as resampling.
        output = np.empty((len(images), 3, side, side), np.float32)
        placed = [image._replace(out=output[i : i + 1]) for i, image in enumerate(images)]
        for _ in self.tensors(placed, self.prepare_input, _AHEAD, strict=True):
            pass
        return output

    def normalized(self, tensor: Tensor) -> NDArray[np.float32]:
        """A tensor as float32 [n, 3, r, r]."""
        if tensor.dtype == np.uint8:
            # Of the right size already: nothing is resampled.
            return self.image_processor.process(list(tensor[..., :3]))
        return cast("NDArray[np.float32]", tensor)

    def tensors(
        self,
        items: Iterable[T],
        open_image: Callable[[T], ImageInput | Preprocessed | None],
        ahead: int,
        *,
        as_bytes: bool = False,
        strict: bool = False,
    ) -> Generator[tuple[T, Tensor | CnclipError | None], None, None]:
        """Open and preprocess images on threads, ahead of the consumer.

        Args:
            items: Drawn on the caller's thread.
            open_image: The image of an item, or None where there is nothing to do. Called on
                several threads at once.
            ahead: Items that are begun before their results are asked for, at most.
            as_bytes: As for `process_image`.
            strict: Raise the error of the first image that fails.

        Yields:
            (item, result) in the order of the items. The result is that of `process_image`, the
            error of an image that failed, or None.
        """

        def prepare(item: T) -> tuple[T, Tensor | CnclipError | None]:
            try:
                image = open_image(item)
                return item, None if image is None else self.process_image(image, as_bytes=as_bytes)
            except _NOT_THE_IMAGE:
                raise
            except CnclipError as error:
                if strict:
                    raise
                return item, error

        count = operator.length_hint(items, self.num_threads)
        threads = min(self.num_threads, count, ahead + 1)
        if threads > 1 and self._spares_busy_cores and _are_quick(items):
            threads = min(threads, _core.cores_free())
        return map_ahead(prepare, items, threads, ahead)

    def process_image(self, image: ImageInput | Preprocessed, *, as_bytes: bool = False) -> Tensor:
        """Open and preprocess one image on the caller's thread.

        Args:
            image: The image. A preprocessed one is returned as it is.
            as_bytes: Resample only, for a model that normalizes.

        Returns:
            float32 [1, 3, r, r], or with `as_bytes` uint8 [1, r, r, 4].

        Raises:
            InvalidInputError, ImageError: the image cannot be used. The error names no item.
        """
        if isinstance(image, Preprocessed):
            return image.tensor
        return self._tensor(self._open(image), as_bytes=as_bytes)

    def _open(self, image: ImageInput) -> Pixels:
        return open_pixels(image, self.image_resolution, self.image_options)

    def _tensor(self, pixels: Pixels, *, as_bytes: bool, out: NDArray[Any] | None = None) -> Tensor:
        """Opened pixels as `process_image` returns them, written to `out` if it is given."""
        convert: Any = self._resize if as_bytes else self.image_processor.process
        return cast("Tensor", convert([pixels], out))

    def resize_by(self, resize: Resize) -> None:
        """Make bytes by another function, whose result is that of `image_processor.resize`."""
        self._resize = resize

    def prepare_input(self, given: InputImage, *, as_bytes: bool = False) -> Preprocessed:
        """Open and preprocess an image of a call, as `process_image` does.

        Raises:
            InvalidInputError, ImageError: the image cannot be used; names it.
        """
        image = given.image
        if isinstance(image, Preprocessed):
            return image
        try:
            with given.lock:
                pixels = self._open(image)
            return Preprocessed(self._tensor(pixels, as_bytes=as_bytes, out=given.out))
        except CnclipError as error:
            raise error.at(item=given.name) from error

    def settled(self, images: InputImages, *, as_bytes: bool = False) -> Iterable[InputImage]:
        """Images that do not change any more once they are drawn.

        An iterator may reuse the memory of an image when the next one is asked for. Images that
        it yields open are therefore preprocessed at once, on the caller's thread. Paths, URLs,
        bytes, and all images of a list are left for threads.
        """
        if isinstance(images, list):
            return images
        return map(partial(self._settle, as_bytes=as_bytes), images)

    def _settle(self, given: InputImage, *, as_bytes: bool) -> InputImage:
        image = given.image
        if isinstance(image, bytearray | memoryview):
            return given._replace(image=bytes(image))
        if isinstance(image, Image.Image | np.ndarray):
            return given._replace(image=self.prepare_input(given, as_bytes=as_bytes))
        return given


def _are_quick(items: Iterable[object]) -> bool:
    """Whether items are a few open images, which only need to be resampled."""
    if not isinstance(items, list):
        return False
    pixels = 0
    for item in items:
        image = item.image if isinstance(item, InputImage) else None
        if isinstance(image, np.ndarray):
            pixels += image.size // 3
        elif isinstance(image, Image.Image) and not getattr(image, "tile", None):
            pixels += image.width * image.height
        else:  # to be read and decoded; a Pillow image has `tile` until then
            return False
        if pixels > _QUICK_PIXELS:
            return False
    return True


def open_pixels(image: ImageInput, resolution: int, options: ImageOptions = DEFAULTS) -> Pixels:
    """Open an image for the core: an image of mode RGB, loaded, or an array.

    Args:
        image: As the pipeline's `forward` takes it.
        resolution: Pixels per side of the model's input.
        options: How a file is decoded.

    Raises:
        InvalidInputError: an array of another type or shape, or an image without pixels.
        ImageError: the image cannot be fetched, read or decoded.
    """
    with DecodingErrors():
        if isinstance(image, np.ndarray):
            return _check_array(image)
        if not isinstance(image, Image.Image):
            image = load_image(image, options=options)
        return to_rgb(image, resolution)


def to_rgb(image: Image.Image, resolution: int) -> Image.Image:
    """An image of mode RGB, loaded.

    An image of another mode is resized by Pillow before it becomes RGB. That is ModelScope's order,
    and the numbers of images with palettes, transparency or 16 bits depend on it.

    Args:
        image: An image of any mode.
        resolution: Pixels per side of the model's input.

    Raises:
        InvalidInputError: it has no pixels.
    """
    if image.width == 0 or image.height == 0:
        raise InvalidInputError(f"an image without pixels, {image.width} x {image.height}")
    if image.mode == "RGB":
        image.load()
        return image
    return image.resize((resolution, resolution), Image.Resampling.BICUBIC).convert("RGB")


def _check_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise InvalidInputError(
            f"expected a uint8 array [height, width, 3], got {array.dtype} {list(array.shape)}"
        )
    if array.size == 0 or max(array.shape) > MAX_SIDE:
        raise InvalidInputError(f"expected 1 to {MAX_SIDE} pixels a side, got {list(array.shape)}")
    return array
