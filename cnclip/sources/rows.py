"""Rows: names of columns, ids, and the problems of single rows."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Any, NamedTuple, Self, TypeVar

from .._text import printable
from ..errors import DatasetError, Where

T = TypeVar("T")

# The first of these names that a table has is its column of images, texts or ids. Upper and lower
# case, spaces, dashes and underscores make no difference: `Image Path` is `image_path`.
IMAGE_COLUMNS = (
    *("file_name", "image", "path", "file", "file_path", "img", "图片"),
    *("image_path", "img_path", "image_file", "img_file", "image_name", "img_name", "images"),
    *("picture", "photo", "jpg", "jpeg", "png", "webp", "图像", "图片路径", "图像路径", "图片名"),
    *("文件名", "文件", "路径", "照片", "image_url", "img_url", "pic_url", "url", "图片链接"),
    *("图片地址", "链接"),
)
TEXT_COLUMNS = (
    *("text", "texts", "caption", "captions", "label", "title", "文本"),
    *("description", "desc", "sentence", "sentences", "prompt", "query", "content", "raw"),
    *("raw_text", "txt", "alt", "alt_text", "标题", "描述", "文字", "内容", "句子", "说明", "标签"),
    *("查询",),
)
ID_COLUMNS = ("id", "image_id", "text_id")

# Names of columns that a message shows.
_NAMES_SHOWN = 7

Id = int | str
_SEPARATORS = re.compile(r"[\s_-]+")
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

    A table without ids is an error if `id_required`, and one without texts if `text_required`.
    `exact` names are compared as they are.
    """

    image: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    id: tuple[str, ...] = ()
    id_required: bool = False
    text_required: bool = True
    exact: frozenset[str] = frozenset()
    hint: str = ""  # of messages: what to do where a column is missing

    @classmethod
    def of(cls, kind: str, column: str | None = None, id_column: str | None = None) -> Self:
        """The columns of "images" or "texts", and of ids: those given, else the usual names.

        With images, the texts are their captions, which a table may lack.
        """
        usual = IMAGE_COLUMNS if kind == "images" else TEXT_COLUMNS
        names = usual if column is None else (column,)
        captions = tuple(name for name in TEXT_COLUMNS if name != column)
        return cls(
            image=names if kind == "images" else (),
            text=captions if kind == "images" else names,
            text_required=kind != "images",
            id=ID_COLUMNS if id_column is None else (id_column,),
            id_required=id_column is not None,
            exact=frozenset(name for name in (column, id_column) if name is not None),
            hint="; name the column with --column",
        )

    def choose(self, names: Iterable[str]) -> Chosen:
        """The first of the wanted names that a table has, for each column, as the table has it."""
        return _choose(self, tuple(names))

    def missing(self, chosen: Chosen, names: Sequence[str]) -> str | None:
        """The reason why a table cannot be used: a wanted column that it lacks."""
        for values, wanted, name in (
            ("images", self.image, chosen.image),
            ("texts", self.text if self.text_required else (), chosen.text),
            ("ids", self.id if self.id_required else (), chosen.id),
        ):
            if wanted and name is None:
                found = printable(", ".join(names)) or "none"
                usual = ", ".join(wanted[:_NAMES_SHOWN])
                more = ", ..." if len(wanted) > _NAMES_SHOWN else ""
                return f"no column of {values} ({usual}{more}); found {found:.300}{self.hint}"
        return None

    def check(self, chosen: Chosen, names: Sequence[str], where: Where, hint: str = "") -> None:
        """Refuse a table without a wanted column.

        Raises:
            DatasetError: it lacks one.
        """
        if reason := self.missing(chosen, names):
            raise DatasetError(reason + hint, where)


@lru_cache(1024)  # the objects of a JSON Lines file mostly have the same names
def _choose(columns: Columns, names: tuple[str, ...]) -> Chosen:
    known: dict[str, str] = {}
    for name in names:
        known.setdefault(_simplified(name), name)

    def first(wanted: tuple[str, ...]) -> str | None:
        for name in wanted:
            if name in names:
                return name
            if name not in columns.exact and (found := known.get(_simplified(name))) is not None:
                return found
        return None

    return Chosen(first(columns.image), first(columns.text), first(columns.id))


def _simplified(name: str) -> str:
    """The name of a column without what writers of tables vary."""
    return _SEPARATORS.sub("", unicodedata.normalize("NFKC", str(name)).casefold())


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
    ENCODING = "a text file is not UTF-8, and is read nonetheless"
    FORMAT = "an unusual format, which is read nonetheless"
    LEFT_OUT = "files that are not images, or of a format that is off"


@dataclass(frozen=True)
class Problem:
    """A row that could not be used as it is."""

    kind: ProblemKind
    where: Where
    reason: str
    skipped: bool = True  # the row was left out; otherwise it was used

    @property
    def message(self) -> str:
        """The reason, and whether the row was used."""
        used = not self.skipped and self.kind is not ProblemKind.LEFT_OUT
        return f"{self.reason} (used nonetheless)" if used else self.reason

    def __str__(self) -> str:
        return f"{self.where}: {printable(self.message)}"


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
            raise DatasetError(problem.message, where)
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
