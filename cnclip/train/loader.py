"""Batches of pairs, made by worker processes, in an order that a resumed run continues.

The pairs of a run are one sequence: all pairs of the first epoch in random order, then those of the
next. A run is at a position of the sequence. Which pair is at a position, and how its image is
augmented, depends on the seed and the position alone: not on the number of workers, processes or
interruptions.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from .. import _core
from ..datasets.pairs import PairData
from ..errors import CnclipError, DatasetError, ImageError
from ..pipelines.stream import MAX_TEXTS
from ..preprocessors.decoding import DecodingErrors, decode_image
from ..preprocessors.multi_modal import to_rgb
from ..preprocessors.text import TextCounts, count_texts, normalize_text
from ..sources.images import read_inner
from .augment import augment
from .loss import Pairs
from .options import TrainOptions
from .process import World
from .step import Part

Loaded = TypeVar("Loaded")

# Pairs that are tried in place of one that cannot be read.
MAX_REPLACEMENTS = 100


@dataclass(frozen=True)
class Preprocessing:
    """Makes a model's inputs. Picklable.

    Attributes:
        resolution: Width and height of the model's images, in pixels.
        mean: Mean of each channel, for the normalisation.
        std: Standard deviation of each channel.
        vocabulary: The bytes of vocab.txt.
        context_length: The number of ids at which a text is cut.
    """

    resolution: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    vocabulary: bytes
    context_length: int

    def pixels(self, image: Image.Image) -> NDArray[np.float32]:
        """Float32 [3, r, r], equal to the pipeline's.

        Raises:
            ImageError: the image is damaged.
        """
        processor = _processor(self.resolution, self.mean, self.std)
        with DecodingErrors():
            tensor: NDArray[np.float32] = processor.process([to_rgb(image, self.resolution)])[0]
        return tensor

    @property
    def tokenizer(self) -> _core.Tokenizer:
        """The tokenizer of the vocabulary."""
        return _tokenizer(self.vocabulary)

    def ids(self, texts: Sequence[str], *, whole_width: bool = False) -> torch.Tensor:
        """Int64 [n, l]; l is the length of the longest text, or with `whole_width` the context."""
        tokenizer = self.tokenizer
        ids, lengths = tokenizer.encode(texts, self.context_length)
        if not whole_width and tokenizer.pad_id == 0 and len(lengths):
            ids = np.ascontiguousarray(ids[:, : min(self.context_length, int(lengths.max()))])
        return torch.from_numpy(ids)


_processor = lru_cache(maxsize=4)(_core.ImageProcessor)
_tokenizer = lru_cache(maxsize=4)(_core.Tokenizer)


def read_image(data: PairData, image: int) -> tuple[Image.Image, int]:
    """Open an image of a data set; returns it and a number that images of equal content share.

    Raises:
        CnclipError: it cannot be read.
    """
    content = data.read(image)
    if isinstance(content, Image.Image):
        return content, _key(content.tobytes())
    content = read_inner(content)
    return decode_image(content, turned=data.turns_images), _key(content)


def skipped_image(data: PairData, image: int, error: CnclipError) -> ImageError:
    """The report of an image that `read_image` or `Preprocessing.pixels` could not read."""
    return ImageError(error.reason, data.where(image))


def _text_keys(texts: list[str], preprocessing: Preprocessing) -> NDArray[np.int64]:
    """A number for each text, shared by texts with the same ids: int64 [n]."""
    keys = np.empty(len(texts), np.int64)
    for start in range(0, len(texts), MAX_TEXTS):
        chunk = texts[start : start + MAX_TEXTS]
        ids = preprocessing.ids(chunk, whole_width=True).numpy()
        for row, text_ids in enumerate(ids, start):
            keys[row] = _key(text_ids.tobytes())
    return keys


def _key(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)


@dataclass(frozen=True)
class Sample:
    """An opened pair.

    Attributes:
        pixels: The input of each model: the student, and perhaps a teacher.
        text: The text.
        pairs: Keys of the image, of the text, and of all texts that the data set has for the
            image: of one row.
        skipped: Images that could not be read, which this sample replaces.
    """

    pixels: tuple[NDArray[np.float32], ...]
    text: str
    pairs: Pairs
    skipped: list[ImageError]


class TrainingPairs(Dataset[Sample]):
    """A data set's pairs by their positions in a run.

    Attributes:
        options: Sampling, augmentation, seed.
        size: The number of pairs (or images) in an epoch.
    """

    def __init__(
        self, data: PairData, options: TrainOptions, preprocessing: tuple[Preprocessing, ...]
    ) -> None:
        """Take the preprocessing of the student, and perhaps of a teacher.

        Raises:
            DatasetError: the data set has no pairs.
        """
        self._data = data
        self.options = options
        self._preprocessing = preprocessing
        self._texts = data.texts if options.raw_text else [normalize_text(t) for t in data.texts]
        self._keys = _text_keys(self._texts, preprocessing[0])
        images, texts = data.pairs[:, 0], data.pairs[:, 1]
        # The texts of image i are _texts_of[_starts[i] : _starts[i + 1]].
        order = np.argsort(images, kind="stable")
        self._texts_of = texts[order]
        self._starts = np.searchsorted(images[order], np.arange(len(data.image_ids) + 1))
        self._captioned_images = np.flatnonzero(np.diff(self._starts))
        self.size = len(data.pairs) if options.sampling == "pairs" else len(self._captioned_images)
        if self.size == 0:
            raise DatasetError(f"{data.name}, {data.split}: no pair of an image and a text")
        counts = np.bincount(texts, minlength=len(self._texts))
        self._weights = np.maximum(counts, 1) ** -options.rare_texts
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def count_texts(self) -> TextCounts:
        """Count the texts of which the student sees only a part."""
        return count_texts(self._preprocessing[0], self._texts)

    def __getitem__(self, position: int) -> Sample:
        """The pair at a position; another pair if its image cannot be read.

        Raises:
            DatasetError: too many images in a row cannot be read.
        """
        random = np.random.default_rng([self.options.seed, position])
        epoch, index = divmod(position, self.size)
        place = int(self._order_of(epoch)[index])
        skipped: list[ImageError] = []
        while True:
            image, text = self._pair(place, random)
            try:
                return self._read(image, text, random, skipped)
            except MemoryError:
                raise
            except CnclipError as error:
                skipped.append(skipped_image(self._data, image, error))
                if len(skipped) > MAX_REPLACEMENTS:
                    raise DatasetError(
                        f"{len(skipped)} images in a row cannot be read; the first: {skipped[0]}"
                    ) from error
                place = int(random.integers(self.size))

    def __getitems__(self, positions: list[int]) -> tuple[Part, list[ImageError]] | CnclipError:
        """A part on the CPU, and the skipped images; or the error. torch's DataLoader calls this.

        An error that a worker process raises reaches the main process as a text with a traceback:
        return it as a value instead.
        """
        try:
            samples = [self[position] for position in positions]
        except CnclipError as error:
            return error
        skipped = [image for sample in samples for image in sample.skipped]
        return self._part(samples), skipped

    def _part(self, samples: list[Sample]) -> Part:
        texts = [sample.text for sample in samples]
        pixels, ids = [], []
        for index, preprocessing in enumerate(self._preprocessing):
            stacked = np.stack([sample.pixels[index] for sample in samples])
            pixels.append(torch.from_numpy(stacked))
            # A compiled model needs parts of the same shape.
            ids.append(preprocessing.ids(texts, whole_width=self.options.compile))
        pairs = Pairs.cat([sample.pairs for sample in samples])
        teacher = (pixels[1], ids[1]) if len(self._preprocessing) > 1 else None
        return Part(pixels[0], ids[0], pairs, teacher)

    def _pair(self, place: int, random: np.random.Generator) -> tuple[int, int]:
        """The image and text at an index of the data set's pairs, or of its images."""
        if self.options.sampling == "pairs":
            image, text = self._data.pairs[place]
            return int(image), int(text)
        image = self._captioned_images[place]
        texts = self._texts_of[self._starts[image] : self._starts[image + 1]]
        if not self.options.rare_texts:
            return int(image), int(texts[random.integers(len(texts))])
        weights = self._weights[texts]
        return int(image), int(random.choice(texts, p=weights / weights.sum()))

    def _read(
        self, image: int, text: int, random: np.random.Generator, skipped: list[ImageError]
    ) -> Sample:
        opened, key = read_image(self._data, image)
        with DecodingErrors():
            side = self._preprocessing[0].resolution
            opened = augment(opened, self.options.augment, random, side)
        pixels = tuple(preprocessing.pixels(opened) for preprocessing in self._preprocessing)
        texts = self._texts_of[self._starts[image] : self._starts[image + 1]]
        keys = ([key], self._keys[[text]], self._keys[texts][None])
        return Sample(pixels, self._texts[text], Pairs(*map(torch.as_tensor, keys)), skipped)

    def _order_of(self, epoch: int) -> NDArray[np.int64]:
        """The order in which an epoch visits the data set's pairs, or its images."""
        if self._order[0] != epoch:
            random = np.random.default_rng([self.options.seed, epoch, 1])
            self._order = (epoch, self._shuffled(random))
        return self._order[1]

    def _shuffled(self, random: np.random.Generator) -> NDArray[np.int64]:
        if self._data.groups is None:
            return random.permutation(self.size)
        pairs = self.options.sampling == "pairs"
        images = self._data.pairs[:, 0] if pairs else self._captioned_images
        # Shuffle the groups, and then the pairs of as many groups as a process holds in memory.
        names, groups = np.unique(self._data.groups[images], return_inverse=True)
        turn = random.permutation(len(names))[groups] // self._data.groups_kept
        return np.lexsort((random.random(self.size), turn))


def unchanged(loaded: Loaded) -> Loaded:
    """The `collate_fn` of data sets whose `__getitems__` makes the batch."""
    return loaded


def leave_group(worker: int) -> None:
    """Move a worker process out of its parent's process group.

    A signal to the group, such as Ctrl-C, must not end workers before the parent saved its state.
    """
    os.setpgid(0, 0)


def training_parts(
    pairs: TrainingPairs, world: World, workers: int, first_step: int, steps: int
) -> Iterator[tuple[Part, list[ImageError]]]:
    """Yield the parts of every batch, starting with a step, and the images that were skipped.

    `accum_freq` parts make a batch.

    Raises:
        DatasetError: too many images in a row cannot be read.
        RuntimeError: a worker process ended.
    """
    loader: DataLoader[Sample] = DataLoader(
        pairs,
        batch_sampler=_positions(pairs.options, world, first_step, steps),
        num_workers=workers,
        collate_fn=unchanged,
        pin_memory=world.device.type == "cuda",
        generator=torch.Generator(),  # a separate one: do not advance the generator of dropout
        worker_init_fn=leave_group,
    )
    for loaded in loader:
        if isinstance(loaded, CnclipError):
            raise loaded
        yield loaded


def _positions(
    options: TrainOptions, world: World, first_step: int, steps: int
) -> Iterator[list[int]]:
    """The positions of each part of this process, starting with a step."""
    size, parts = options.batch_size, options.accum_freq
    for step in range(first_step, steps):
        for part in range(parts):
            start = ((step * world.size + world.rank) * parts + part) * size
            yield list(range(start, start + size))
