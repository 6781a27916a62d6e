"""Rows: names of columns, ids, suffixes of files, and what is wrong with single rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, Self, TypeVar

from .._text import printable
from ..errors import DatasetError, Where

T = TypeVar("T")

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tga"}
    | {".tif", ".tiff", ".webp"}
)
# The first of these names that a table has is its column of images, texts or ids.
IMAGE_COLUMNS = ("file_name", "image", "path", "file", "filepath", "img", "图片")
TEXT_COLUMNS = ("text", "texts", "caption", "captions", "label", "title", "文本")
ID_COLUMNS = ("id", "image_id", "text_id")

Id = int | str
_INTEGER = re.compile(r"-?[1-9][0-9]{0,17}|0")


def id_of(value: Any) -> Id | None:
    """The id that a value means: `7` and `"7"` are the same. None if it is not an id."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and value.strip():
        text = value.strip()
        return int(text) if _INTEGER.fullmatch(text) else text
    return None


class Chosen(NamedTuple):
    """The columns of a table that are read; None for each that it lacks or that is not wanted."""

    image: str | None
    text: str | None
    id: str | None


class Row(NamedTuple):
    """A row of a table. Values are of any type: nothing has checked them."""

    number: int  # the line or row in the file, from 1
    image: Any  # an ImageRef, or what should be a path or URL
    text: Any  # what should be a string or a list of strings
    id: Any


@dataclass(frozen=True)
class Columns:
    """The possible names of each column, the best first; none for a column that is not wanted.

    A table without ids is an error if `id_required`.
    """

    image: Sequence[str] = ()
    text: Sequence[str] = ()
    id: Sequence[str] = ()
    id_required: bool = False

    @classmethod
    def of(cls, kind: str, column: str | None = None, id_column: str | None = None) -> Self:
        """The columns of "images" or "texts", and of ids: those given, else the usual names."""
        usual = IMAGE_COLUMNS if kind == "images" else TEXT_COLUMNS
        names = usual if column is None else (column,)
        return cls(
            image=names if kind == "images" else (),
            text=() if kind == "images" else names,
            id=ID_COLUMNS if id_column is None else (id_column,),
            id_required=id_column is not None,
        )

    def choose(self, names: Collection[str]) -> Chosen:
        """The first of the wanted names that a table has, for each column."""
        return Chosen(
            next((name for name in self.image if name in names), None),
            next((name for name in self.text if name in names), None),
            next((name for name in self.id if name in names), None),
        )

    def missing(self, chosen: Chosen, names: Sequence[str]) -> str | None:
        """The reason why a table cannot be used: a wanted column that it lacks."""
        for values, wanted, name in (
            ("images", self.image, chosen.image),
            ("texts", self.text, chosen.text),
            ("ids", self.id if self.id_required else (), chosen.id),
        ):
            if wanted and name is None:
                found = printable(", ".join(names))
                return f"no column of {values} ({', '.join(wanted)}); found {found:.300}"
        return None

    def check(self, chosen: Chosen, names: Sequence[str], where: Where, hint: str = "") -> None:
        """Refuse a table without a wanted column.

        Raises:
            DatasetError: it lacks one.
        """
        if reason := self.missing(chosen, names):
            raise DatasetError(reason + hint, where)


class ProblemKind(Enum):
    """What is wrong with a row."""

    DAMAGED = "a file, a part of it or a line cannot be parsed"
    NOT_UTF8 = "a text is not UTF-8"
    BAD_VALUE = "a value is empty, or has a wrong type"
    DUPLICATE = "an id or a member occurs twice"
    NO_IMAGE = "there is no image"
    NO_TEXT = "there is no text"
    UNKNOWN_ID = "the row refers to an image or class that does not exist"
    UNREADABLE_IMAGE = "the image cannot be read or decoded"
    FORMAT = "an unusual format, which is read nonetheless"


@dataclass(frozen=True)
class Problem:
    """A row that could not be used as it is."""

    kind: ProblemKind
    where: Where
    reason: str
    skipped: bool = True  # the row was left out; otherwise it was used

    def __str__(self) -> str:
        used = "" if self.skipped else " (used nonetheless)"
        return f"{self.where}: {printable(self.reason)}{used}"


@dataclass
class Problems:
    """The problems of a data set in the order in which they were found, each once.

    With `strict`, the first is raised instead.
    """

    strict: bool = False
    found: list[Problem] = field(default_factory=list)
    _known: set[Problem] = field(default_factory=set)

    def add(self, kind: ProblemKind, where: Where, reason: str, *, skipped: bool = True) -> None:
        """Add a problem.

        Raises:
            DatasetError: `strict` is set.
        """
        problem = Problem(kind, where, reason, skipped)
        if self.strict:
            raise DatasetError(reason if skipped else f"{reason} (used nonetheless)", where)
        if problem not in self._known:
            self._known.add(problem)
            self.found.append(problem)

    def add_all(self, others: Problems) -> None:
        """Add all that another collection has.

        Raises:
            DatasetError: `strict` is set, and there are any.
        """
        for problem in others.found:
            self.add(problem.kind, problem.where, problem.reason, skipped=problem.skipped)

    def drain(self) -> list[Problem]:
        """Return the problems and forget them."""
        found, self.found, self._known = self.found, [], set()
        return found

    @property
    def skipped(self) -> int:
        """How many rows were left out."""
        return sum(problem.skipped for problem in self.found)

    @property
    def hint(self) -> str:
        """The first problem, to append to a message; empty if there are none."""
        return f": {self.found[0]}" if self.found else ""


def with_problems(read: Callable[[Problems], Iterator[T]]) -> Iterator[T | Problem]:
    """The rows that a reader yields, each after the problems of the rows before it."""
    problems = Problems()
    for row in read(problems):
        if problems.found:
            yield from problems.drain()
        yield row
    yield from problems.drain()
