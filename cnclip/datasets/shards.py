"""Data sets of one or several files of a kind: which they are, and what their readers share."""

from __future__ import annotations

import glob
import os
import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DatasetError, ImageError
from .problems import Problems
from .retrieval import ImageRow, RetrievalData, TextRow
from .stores import ImageStore

# Hugging Face's `train-00000-of-00004`, or a usual name that the file's name begins with.
_NUMBERED = re.compile(r"(.+?)-\d{5}-of-\d{5}")
_NAMED = re.compile(
    r"(train|training|val|valid|validation|dev|eval|test|testing)(?![a-z])", re.IGNORECASE
)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def splits(place: Path, suffix: str) -> dict[str, list[Path]]:
    """The files that lie here by their splits; an empty name for what is not split.

    Args:
        place: A file; a folder with files, in it, in `data/` or in a folder for each split; or a
            pattern, `shards/*.tar` or `shards/{000..012}.tar`.
        suffix: How their names end.

    Raises:
        DatasetError: a file that a pattern names is not there.
    """
    if not place.is_dir():
        return _by_split([place] if place.exists() else expand(str(place)))
    for folder in (place, place / "data"):
        if files := _files(folder, suffix):
            return _by_split(files)
    folders = (path for path in place.iterdir() if path.is_dir())
    return {path.name: files for path in sorted(folders) if (files := _files(path, suffix))}


def _files(folder: Path, suffix: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"*{suffix}") if not path.name.startswith("."))


def _by_split(files: list[Path]) -> dict[str, list[Path]]:
    names = [_NUMBERED.match(path.name) or _NAMED.match(path.name) for path in files]
    if not any(names):
        return {"": files}
    found: dict[str, list[Path]] = {}
    for path, name in zip(files, names, strict=True):
        found.setdefault(name[1] if name else path.stem, []).append(path)
    return found


def is_pattern(path: str) -> bool:
    """Whether it names files by `*`, `?`, `[...]` or `{...}`."""
    return glob.has_magic(path) or _BRACES.search(path) is not None


def expand(pattern: str) -> list[Path]:
    """The files that a pattern names: those of braces in their order, those of `*` sorted.

    Raises:
        DatasetError: there is none, or one that braces name is not there.
    """
    found: list[str] = []
    for one in _without_braces(pattern):
        some = sorted(glob.glob(one, recursive=True))
        if not some:
            raise DatasetError(f"{one}: no such file")
        found += some
    return [Path(path) for path in dict.fromkeys(found)]


def _without_braces(pattern: str) -> Iterator[str]:
    braces = _BRACES.search(pattern)
    if braces is None:
        yield pattern
        return
    numbers = _RANGE.fullmatch(braces[1])
    if numbers is None:
        inner = braces[1].split(",")
    else:
        width = len(numbers[1])
        inner = [f"{n:0{width}d}" for n in range(int(numbers[1]), int(numbers[2]) + 1)]
    for one in inner:
        yield from _without_braces(pattern[: braces.start()] + one + pattern[braces.end() :])


def _short_names(files: list[Path]) -> list[str]:
    """What to call files in messages: their paths from the folder that they share."""
    folder = os.path.commonpath([os.path.abspath(path.parent) for path in files])
    return [os.path.relpath(path, folder) for path in files]


@dataclass(frozen=True)
class Index:
    """What lies in files.

    Attributes:
        images: The images.
        texts: The texts.
        image_of: Int64 [n], the number of each text's image.
    """

    images: ImageStore
    texts: Sequence[str]
    image_of: NDArray[np.int64]


class IndexedData(RetrievalData):
    """A layout whose files are gone through once, before anything of them is given out.

    Attributes:
        suffix: How its files' names end.
    """

    turns_images = True
    suffix: str

    def __init__(self, place: Path, name: str, split: str) -> None:
        super().__init__(name, split or "all")
        found = splits(place, self.suffix)
        self._files = found[split if split in found else ""]
        self._names = _short_names(self._files)
        self._found: tuple[Index, Problems] | None = None

    @abstractmethod
    def _read_index(self, problems: Problems) -> Index:
        """Go through the files."""

    def _index(self, problems: Problems) -> Index:
        if self._found is None:
            own = Problems()
            self._found = (self._read_index(own), own)
        index, found = self._found
        problems.add_all(found)
        return index

    def texts(self, problems: Problems) -> Iterator[TextRow]:
        """The texts, numbered."""
        index = self._index(problems)
        images = index.images
        for number, image in enumerate(index.image_of.tolist()):
            yield TextRow(number, index.texts[number], (images.ids[image],), images.where(image))

    def images(self, problems: Problems) -> Iterator[ImageRow]:
        """The images."""
        images = self._index(problems).images
        for image, image_id in enumerate(images.ids):
            where = images.where(image)
            try:
                content = images.content(image)
            except ImageError as error:
                problems.add(where, f"image {image_id}: {error}")
            else:
                yield ImageRow(image_id, content, where)

    def locate(self, problems: Problems) -> ImageStore:
        """The images."""
        return self._index(problems).images

    def files(self) -> list[Path]:
        """The files."""
        return self._files

    def count_images(self) -> int | None:
        """How many images there are, once the files were gone through."""
        return None if self._found is None else len(self._found[0].images.ids)
