"""Names: suffixes of image files, columns of tables, ids of images and texts."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from .._text import printable
from ..errors import DatasetError, Where

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
        for kind, wanted, name in (
            ("images", self.image, chosen.image),
            ("texts", self.text, chosen.text),
            ("ids", self.id if self.id_required else (), chosen.id),
        ):
            if wanted and name is None:
                found = printable(", ".join(names))
                return f"no column of {kind} ({', '.join(wanted)}); found {found:.300}"
        return None

    def check(self, chosen: Chosen, names: Sequence[str], where: Where, hint: str = "") -> None:
        """Refuse a table without a wanted column.

        Raises:
            DatasetError: it lacks one.
        """
        if reason := self.missing(chosen, names):
            raise DatasetError(reason + hint, where)
