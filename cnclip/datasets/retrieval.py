"""Images and the texts that describe them: the interface of every data set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .._text import is_blank, is_utf8, value_text
from ..errors import Where
from ..sources.images import ImageRef, ImageStore
from ..sources.rows import Id, ProblemKind, Problems


@dataclass(frozen=True, slots=True)
class TextRow:
    """A text, and the images that it describes: none in test sets without answers."""

    text_id: Id
    text: str
    image_ids: tuple[Id, ...]
    where: Where


@dataclass(frozen=True, slots=True)
class ImageRow:
    """An image that has not been read yet, and its file and line or member."""

    image_id: Id
    image: ImageRef
    where: Where


class RetrievalData(ABC):
    """One split of a data set. Each subclass reads one layout.

    Attributes:
        name: The data set's name, that of its folder or file.
        split: The split's name.
        turns_images: Whether images are turned as their EXIF orientation says. Those of
            Chinese-CLIP's own layouts are not, as in its evaluation.
        encoding: The encoding of text files, and of names in archives that do not record theirs;
            None for the one that each has.
    """

    turns_images = False

    def __init__(self, place: Path, name: str, split: str, encoding: str | None = None) -> None:
        self._place, self.name, self.split, self.encoding = place, name, split, encoding

    @staticmethod
    @abstractmethod
    def splits(place: Path) -> list[str]:
        """The splits at a path; an empty name for a data set that is not split."""

    @abstractmethod
    def texts(self, problems: Problems) -> Iterator[TextRow]:
        """The texts that can be used, with unique ids."""

    @abstractmethod
    def locate(self, problems: Problems) -> ImageStore:
        """The images that can be used, to be read in any order.

        Raises:
            DatasetError: they can only be read one after another, as in a compressed zip.
        """

    def images(self, problems: Problems) -> Iterator[ImageRow]:
        """The images that can be used, with unique ids; none is read here."""
        store = self.locate(problems)
        for number, image_id in enumerate(store.ids):
            yield ImageRow(image_id, ImageRef(store, number), store.where(number))

    @abstractmethod
    def files(self) -> list[Path]:
        """The files that are read: when none of them changes, nor do the images and texts."""

    def count_images(self) -> int | None:
        """The number of images, if it is known before they are read."""
        return None


def usable_texts(value: Any, owner: str, where: Where, problems: Problems) -> Iterator[str]:
    """The texts in a row: one, or those of a list, without empty ones.

    `owner` is the image in messages, `where` the row.
    """
    for text in value if isinstance(value, list) else [value]:
        if wrong := wrong_text(text, f"the text of {owner}"):
            problems.add(wrong[0], where, wrong[1])
        else:
            yield text


def wrong_text(text: Any, name: str) -> tuple[ProblemKind, str] | None:
    """The problem of a value that is not a text which can be used, and the reason; else None.

    An exception is a text that could not be decoded. `name` is the text's name in messages.
    """
    if not isinstance(text, str | Exception):
        return ProblemKind.BAD_VALUE, f"text: expected a string, found {value_text(text)}"
    if isinstance(text, Exception) or not is_utf8(text):
        return ProblemKind.NOT_UTF8, "the text is not UTF-8"
    return (ProblemKind.NO_TEXT, f"{name} is empty") if is_blank(text) else None


def without_missing_images(
    text: TextRow, known: Container[Id], problems: Problems
) -> TextRow | None:
    """The text with its images that are known; None if all that it names are not."""
    unknown = [image_id for image_id in text.image_ids if image_id not in known]
    if not unknown:
        return text
    left = tuple(image_id for image_id in text.image_ids if image_id in known)
    shown = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
    problems.add(
        ProblemKind.UNKNOWN_ID,
        text.where,
        f"text {text.text_id} names images that do not exist or cannot be read: {shown}",
        skipped=not left,
    )
    return replace(text, image_ids=left) if left else None
