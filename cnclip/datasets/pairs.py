"""Pairs of an image and a text with random access, for training."""

from __future__ import annotations

import copy
import hashlib
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .._text import first_line
from ..errors import DatasetError, ImageError, Where
from ..sources.images import read_content
from ..sources.parquet_files import GROUPS_KEPT
from ..sources.rows import Id, Problems
from .layouts import open_retrieval
from .retrieval import RetrievalData, without_missing_images

Role = Literal["train", "val"]
# The usual names of the splits for a purpose, the best first.
_SPLITS_OF: dict[Role, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("valid", "val", "validation", "dev", "test"),
}
_STRINGS_AT_ONCE = 65536


class PairData:
    """Images and texts with random access.

    Picklable; opens its files on the first read in each process, so that worker processes may be
    forked or spawned at any time.

    Attributes:
        name: The data set's name.
        split: The split's name.
        turns_images: Whether images are turned as their EXIF orientation says.
        texts: The rows' texts, in the data set's order; equal ones are not merged.
        text_ids: The id of each text.
        pairs: int64 [n, 2], (image number, text number), in the data set's order: every relation
            of an image and a text once. Some images and texts may be in none.
        image_ids: The id of each image number.
        groups: int64 [images], the number of the block of storage that has each image, where a
            block is read as a whole; None where any order costs the same.
        groups_kept: Blocks that a process keeps in memory.
        fingerprint: Changes when pairs, texts, ids or the files' sizes do, and not when files are
            moved.
    """

    groups_kept = GROUPS_KEPT

    def __init__(self, data: RetrievalData, problems: Problems) -> None:
        """Read the texts of a split and find its images, see `open_pairs`."""
        self._images = data.locate(problems)
        self.name, self.split = data.name, data.split
        self.turns_images = data.turns_images
        self.image_ids, self.groups = self._images.ids, self._images.groups
        numbers = {image_id: number for number, image_id in enumerate(self.image_ids)}
        self.texts: list[str] = []
        self.text_ids: list[Id] = []
        pairs = array("q")
        for row in data.texts(problems):
            text = without_missing_images(row, numbers, problems)
            if text is None:
                continue
            for image_id in text.image_ids:
                pairs.extend((numbers[image_id], len(self.texts)))
            self.texts.append(text.text)
            self.text_ids.append(text.text_id)
        if not pairs:
            place = f"{data.name}, {data.split}"
            reason = f"no image with a text that can be used{problems.hint}"
            raise DatasetError(reason, item=place)
        self.pairs: NDArray[np.int64] = np.frombuffer(pairs, np.int64).reshape(-1, 2)
        self.fingerprint = self._fingerprint(data.files())

    def _fingerprint(self, files: list[Path]) -> str:
        total = hashlib.sha256(self.pairs.tobytes())
        for strings in (self.texts, self.image_ids):
            for part in _joined(strings):
                total.update(part)
        try:
            for file in files:
                total.update(f"{file.stat().st_size}\0".encode())
        except OSError as error:
            reason = f"cannot be read: {first_line(error)}"
            raise DatasetError(reason, file=error.filename or self.name) from error
        return total.hexdigest()

    def select(self, pairs: NDArray[np.int64]) -> PairData:
        """The same images and texts with some of the pairs: int64 [n], their numbers."""
        selected = copy.copy(self)
        selected.pairs = self.pairs[pairs]
        digest = hashlib.sha256(self.fingerprint.encode() + selected.pairs.tobytes())
        selected.fingerprint = digest.hexdigest()
        return selected

    def read(self, image: int) -> bytes | Path | Image.Image:
        """An image file's bytes or its path; or an image that is decoded already.

        Raises:
            ImageError: it cannot be read. The error has its place.
        """
        try:
            content = self._images.content(image)
            return read_content(content) if isinstance(content, str) else content
        except ImageError as error:
            reason = f"image {self.image_ids[image]}: {error.reason}"
            raise ImageError(reason, self.where(image)) from error

    def where(self, image: int) -> Where:
        """An image's file and line or member."""
        return self._images.where(image)


def _joined(strings: Sequence[Id]) -> Iterator[bytes]:
    for start in range(0, len(strings), _STRINGS_AT_ONCE):
        some = "\0".join(map(str, strings[start : start + _STRINGS_AT_ONCE]))
        yield f"{len(some)}:{some}".encode("utf-8", "surrogatepass")


def open_pairs(
    path: str | Path,
    split: str | None = None,
    *,
    role: Role = "train",
    problems: Problems,
    encoding: str | None = None,
) -> PairData:
    """Open a split of a data set in any layout for random access.

    Args:
        path: The data set, see `cnclip.datasets.open_retrieval`.
        split: Its name. By default the only split, or the one for the role: `train` or `training`;
            `valid`, `val`, `validation`, `dev` or else `test`.
        role: The purpose.
        problems: Gets the rows that cannot be used, which are left out.
        encoding: As for `open_retrieval`.

    Raises:
        DatasetError: there is no such data set or split; it cannot be read in any order, as in a
            compressed zip; or nothing in it can be used.
        MissingExtraError: pyarrow is not installed.
    """
    data = open_retrieval(path, split, preferred=_SPLITS_OF[role], encoding=encoding)
    return PairData(data, problems)
