"""Images with random access: what a data set's worker processes read from.

A store is picklable and holds no image; it opens its files on the first read in each process.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from .ids import Id

Value = TypeVar("Value")

# Far fewer than a process may open by default.
_OPEN_FILES = 64


class ImageStore(ABC):
    """Images by their numbers, 0 to n - 1.

    Attributes:
        ids: Of each image number; distinct.
        groups: Int64 [n], the block of storage in which each image lies, where a block is read as
            a whole; None where any order costs the same.
        groups_kept: How many groups a process holds in memory.
    """

    ids: Sequence[Id]
    groups: NDArray[np.int64] | None = None
    groups_kept: int = 1

    @abstractmethod
    def content(self, image: int) -> bytes | Path:
        """An image file's bytes, or its path.

        Raises:
            ImageError: it cannot be read; says why, but not which.
        """

    @abstractmethod
    def where(self, image: int) -> str:
        """Its file and line or the like, for messages."""

    @abstractmethod
    def files(self) -> Iterable[Path]:
        """The files behind it, in an order of their own."""

    def reader(self, image: int) -> Callable[[], bytes | Path]:
        """A picklable function that gives an image's content, to be sent to other processes.

        It holds the whole store, unless a store has less to give.
        """
        return partial(self.content, image)


class Kept(Generic[Value]):
    """The last few values of a function of hashable arguments; pickled without them."""

    def __init__(self, function: Callable[..., Value], count: int) -> None:
        """Keep the last `count` values of a picklable function."""
        self._function, self._count = function, count
        self._cached = lru_cache(count)(function)

    def __call__(self, *arguments: Any) -> Value:
        """The function's value, computed or kept."""
        return self._cached(*arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return Kept, (self._function, self._count)


class _Descriptor:
    """An open file that closes itself. Reading at offsets is safe on threads and after a fork."""

    def __init__(self, path: Path) -> None:
        self._number = -1
        self._number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if self._number >= 0:
            os.close(self._number)

    def read(self, length: int, start: int) -> bytes:
        return os.pread(self._number, length, start)


class Slices:
    """Pieces of files by their offsets."""

    def __init__(
        self,
        files: Sequence[Path],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        file_of: NDArray[np.int32] | None = None,
    ) -> None:
        """Take where they lie.

        Args:
            files: The files.
            starts: Int64 [n], the offset of each piece.
            lengths: Int64 [n], its bytes.
            file_of: Int32 [n], the index of its file; None for the first file.
        """
        self.files = files
        self._starts, self._lengths, self._file_of = starts, lengths, file_of
        self._opened = Kept(_Descriptor, _OPEN_FILES)

    def file_of(self, number: int) -> int:
        """The index of a piece's file."""
        return 0 if self._file_of is None else int(self._file_of[number])

    def alone(self, number: int) -> Slices:
        """One of the pieces, number 0 there."""
        one = slice(number, number + 1)
        files = [self.files[self.file_of(number)]]
        return Slices(files, self._starts[one].copy(), self._lengths[one].copy())

    def read(self, number: int) -> bytes:
        """A piece.

        Raises:
            ImageError: the file is gone, or ends before.
        """
        start, length = int(self._starts[number]), int(self._lengths[number])
        path = self.files[self.file_of(number)]
        try:
            content = self._opened(path).read(length, start)
        except OSError as error:
            raise ImageError(f"{path} cannot be read: {error.strerror or error}") from error
        if len(content) < length:
            raise ImageError(f"{path.name} ends in the middle of it")
        return content
