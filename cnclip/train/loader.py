"""Batches of pairs, made by worker processes, in an order that a run can be taken up in.

All pairs of an epoch in random order, then those of the next, are one endless row; a run is at a
position in it. What happens at a position (which pair, how its image is augmented) depends on the
seed and the position alone: not on the number of workers, processes, or interruptions.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from .. import _core
from ..datasets.pairs import PairData
from ..datasets.parquet_files import GROUPS_KEPT
from ..datasets.retrieval import ImageRow, open_image
from ..errors import CnclipError, DatasetError, ImageError
from ..evaluate import normalize_text
from ..pipelines.stream import MAX_TEXTS
from ..preprocessors.multi_modal import to_rgb
from .augment import augment
from .batch import Pairs, Part
from .distributed import World
from .options import TrainOptions

# Pairs that are tried in place of one that cannot be read.
MAX_REPLACEMENTS = 100


@dataclass(frozen=True)
class Inputs:
    """What a model sees and reads: its preprocessing.

    Attributes:
        resolution: Pixels a side.
        mean: Of the normalisation.
        std: Of the normalisation.
        vocabulary: The vocab.txt's bytes.
        context_length: Ids that a text is cut at.
    """

    resolution: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    vocabulary: bytes
    context_length: int

    def pixels(self, image: Image.Image) -> NDArray[np.float32]:
        """Float32 [3, r, r], as the pipeline makes it.

        Raises:
            ImageError: the image is damaged.
        """
        processor = _processor(self.resolution, self.mean, self.std)
        with _named_errors():
            tensor: NDArray[np.float32] = processor.process([to_rgb(image, self.resolution)])[0]
        return tensor

    def ids(self, texts: Sequence[str], *, whole_width: bool = False) -> torch.Tensor:
        """Int64 [n, l], as wide as the longest text, or as the context."""
        tokenizer = _tokenizer(self.vocabulary)
        ids, lengths = tokenizer.encode(texts, self.context_length)
        if not whole_width and tokenizer.pad_id == 0 and len(lengths):
            ids = np.ascontiguousarray(ids[:, : min(self.context_length, int(lengths.max()))])
        return torch.from_numpy(ids)


@contextlib.contextmanager
def _named_errors() -> Iterator[None]:
    """Pillow raises whatever a damaged file leads it to: here that is an ImageError."""
    try:
        yield
    except (CnclipError, MemoryError):
        raise
    except Exception as error:
        raise ImageError(f"cannot be read as an image: {error}") from error


@lru_cache(maxsize=4)
def _processor(
    resolution: int, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> _core.ImageProcessor:
    return _core.ImageProcessor(resolution, mean, std)


@lru_cache(maxsize=4)
def _tokenizer(vocabulary: bytes) -> _core.Tokenizer:
    return _core.Tokenizer(vocabulary)


def read_image(data: PairData, image: int) -> tuple[Image.Image, int]:
    """An image of a data set, and a number that those of equal content share.

    Raises:
        CnclipError: it cannot be read.
    """
    content = data.read(image)
    if not isinstance(content, bytes):
        try:
            content = content.read_bytes()
        except OSError as error:
            raise ImageError(f"{content!s}: {error.strerror or error}") from error
    row = ImageRow(data.image_ids[image], content, data.where(image))
    return open_image(row, turned=data.turns_images), _key(content)


def _text_keys(texts: list[str], inputs: Inputs) -> NDArray[np.int64]:
    """A number for each text that those share which are the same to the model: int64 [n]."""
    keys = np.empty(len(texts), np.int64)
    for start in range(0, len(texts), MAX_TEXTS):
        ids = inputs.ids(texts[start : start + MAX_TEXTS], whole_width=True).numpy()
        for row, some in enumerate(ids, start):
            keys[row] = _key(some.tobytes())
    return keys


def _key(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)


@dataclass(frozen=True)
class Item:
    """A pair, read.

    Attributes:
        pixels: What each model sees: the student, and perhaps a teacher.
        text: The text.
        image_key: Equal for images of equal content.
        text_key: Equal for texts of equal ids, as far as the model reads them.
        described: Keys of all texts that the data set gives the image.
        skipped: (place, reason) of pairs that could not be read, in whose place this one stands.
    """

    pixels: tuple[NDArray[np.float32], ...]
    text: str
    image_key: int
    text_key: int
    described: NDArray[np.int64]
    skipped: list[tuple[str, str]]


class TrainingPairs(Dataset[Item]):
    """A data set's pairs by their positions in a run.

    Attributes:
        size: Pairs (or images) of an epoch.
    """

    def __init__(self, data: PairData, options: TrainOptions, inputs: tuple[Inputs, ...]) -> None:
        """Take a data set.

        Args:
            data: The data set.
            options: Sampling, augmentation, seed.
            inputs: Of the student, and perhaps of a teacher.

        Raises:
            DatasetError: it has no pairs.
        """
        self._data = data
        self._options = options
        self._inputs = inputs
        self._texts = data.texts if options.raw_text else [normalize_text(t) for t in data.texts]
        self._keys = _text_keys(self._texts, inputs[0])
        images, texts = data.pairs[:, 0], data.pairs[:, 1]
        # The texts of each image, one image's after the other's.
        order = np.argsort(images, kind="stable")
        self._texts_of = texts[order]
        self._starts = np.searchsorted(images[order], np.arange(len(data.image_ids) + 1))
        self._described = np.flatnonzero(np.diff(self._starts))
        self.size = len(data.pairs) if options.sampling == "pairs" else len(self._described)
        if self.size == 0:
            raise DatasetError(f"{data.name}, {data.split}: no pair of an image and a text")
        counts = np.bincount(texts, minlength=len(self._texts))
        self._weights = np.maximum(counts, 1) ** -options.rare_texts
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def __getitem__(self, position: int) -> Item:
        """The pair at a position; another one in its place where it cannot be read.

        Raises:
            DatasetError: too many pairs in a row cannot be read.
        """
        random = np.random.default_rng([self._options.seed, position])
        epoch, index = divmod(position, self.size)
        place = int(self._order_of(epoch)[index])
        skipped: list[tuple[str, str]] = []
        while True:
            image, text = self._pair(place, random)
            try:
                return self._read(image, text, random, skipped)
            except (CnclipError, MemoryError) as error:
                where = self._data.where(image)
                skipped.append((where, str(error).removeprefix(f"{where}: ")))
                if len(skipped) > MAX_REPLACEMENTS:
                    raise DatasetError(
                        f"{len(skipped)} images in a row cannot be read; the first: "
                        f"{': '.join(skipped[0])}"
                    ) from error
                place = int(random.integers(self.size))

    def _pair(self, place: int, random: np.random.Generator) -> tuple[int, int]:
        """The pair that stands at a place of the data set."""
        if self._options.sampling == "pairs":
            image, text = self._data.pairs[place]
            return int(image), int(text)
        image = self._described[place]
        texts = self._texts_of[self._starts[image] : self._starts[image + 1]]
        if not self._options.rare_texts:
            return int(image), int(texts[random.integers(len(texts))])
        weights = self._weights[texts]
        return int(image), int(random.choice(texts, p=weights / weights.sum()))

    def _read(
        self, image: int, text: int, random: np.random.Generator, skipped: list[tuple[str, str]]
    ) -> Item:
        opened, key = read_image(self._data, image)
        with _named_errors():
            opened = augment(opened, self._options.augment, random)
        pixels = tuple(inputs.pixels(opened) for inputs in self._inputs)
        texts = self._texts_of[self._starts[image] : self._starts[image + 1]]
        return Item(
            pixels, self._texts[text], key, int(self._keys[text]), self._keys[texts], skipped
        )

    def _order_of(self, epoch: int) -> NDArray[np.int64]:
        """The places of an epoch's pairs in the data set, in the order in which they come."""
        if self._order[0] != epoch:
            random = np.random.default_rng([self._options.seed, epoch, 1])
            self._order = (epoch, self._shuffled(random))
        return self._order[1]

    def _shuffled(self, random: np.random.Generator) -> NDArray[np.int64]:
        if self._data.groups is None:
            return random.permutation(self.size)
        pairs = self._options.sampling == "pairs"
        images = self._data.pairs[:, 0] if pairs else self._described
        # Blocks in random order, some at a time; what lies in those in random order.
        names, groups = np.unique(self._data.groups[images], return_inverse=True)
        turn = random.permutation(len(names))[groups] // GROUPS_KEPT
        return np.lexsort((random.random(self.size), turn))


class Collate:
    """Items to a part of a batch, with what could not be read."""

    def __init__(self, inputs: tuple[Inputs, ...], whole_width: bool) -> None:
        """Take the models' preprocessing; `whole_width` makes every part of the same shape."""
        self._inputs = inputs
        self._whole_width = whole_width

    def __call__(self, items: list[Item]) -> tuple[Part, list[tuple[str, str]]]:
        """The part, on the CPU."""
        texts = [item.text for item in items]
        pixels, ids = [], []
        for index, one in enumerate(self._inputs):
            pixels.append(torch.from_numpy(np.stack([item.pixels[index] for item in items])))
            ids.append(one.ids(texts, whole_width=self._whole_width))
        described = np.array([[item.text_key] for item in items]).repeat(
            max(len(item.described) for item in items), axis=1
        )
        for row, item in zip(described, items, strict=True):
            row[: len(item.described)] = item.described
        pairs = Pairs(
            torch.tensor([item.image_key for item in items]),
            torch.tensor([item.text_key for item in items]),
            torch.from_numpy(described),
        )
        teacher = (pixels[1], ids[1]) if len(self._inputs) > 1 else None
        skipped = [one for item in items for one in item.skipped]
        return Part(pixels[0], ids[0], pairs, teacher), skipped


def leave_group(worker: int) -> None:
    """A worker process out of its parent's group, whose signals are the parent's to answer."""
    os.setpgid(0, 0)


class _Positions(Sampler[list[int]]):
    """The positions of this process's parts, from a step on."""

    def __init__(self, options: TrainOptions, world: World, first_step: int, steps: int) -> None:
        self._options = options
        self._world = world
        self._first_step = first_step
        self._steps = steps

    def __iter__(self) -> Iterator[list[int]]:
        size, parts = self._options.batch_size, self._options.accum_freq
        for step in range(self._first_step, self._steps):
            for part in range(parts):
                start = ((step * self._world.size + self._world.rank) * parts + part) * size
                yield list(range(start, start + size))

    def __len__(self) -> int:
        return (self._steps - self._first_step) * self._options.accum_freq


def training_parts(
    pairs: TrainingPairs,
    inputs: tuple[Inputs, ...],
    options: TrainOptions,
    world: World,
    workers: int,
    first_step: int,
    steps: int,
) -> DataLoader[Item]:
    """The parts of every batch from a step on; `accum_freq` of them make a batch."""
    return DataLoader(
        pairs,
        batch_sampler=_Positions(options, world, first_step, steps),
        num_workers=workers,
        collate_fn=Collate(inputs, whole_width=options.compile),
        pin_memory=world.device.type == "cuda",
        generator=torch.Generator(),  # of its own: it takes nothing from dropout's
        worker_init_fn=leave_group,
    )
