"""An item, an image or a text to embed, and its outcome; and the file that holds several items."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal, NamedTuple, Self

from numpy.typing import NDArray
from PIL import Image

from .._text import MAX_REASON, printable
from ..errors import CnclipError, FormatOffError, Where
from ..preprocessors.decoding import DEFAULTS, ImageOptions, decode_image
from ..sources.images import ImageFile, ImageRef, ImageStore, spelled
from ..sources.rows import Problem

ItemKind = Literal["images", "texts"]
ITEM_KINDS = ("images", "texts")


class Item(NamedTuple):
    """An image or a text to embed, or the reason why it cannot be embedded."""

    id: str  # unique among all items
    path: str  # its file or URL; of an image in an archive or table, that file
    size: int | None = None  # of the file, in bytes
    mtime_ns: int | None = None  # of the file; with the size, it shows whether the file has changed
    image: ImageRef | None = None
    turned: bool = True  # turn the image upright, as its EXIF orientation says
    text: str | None = None
    error: str | None = None
    listed: Where | None = None  # the row of a list or table that has it
    caption: str | None = None  # of an image in a table or tar file
    # Found in a folder or archive, not named: left out if its content is of a format that is off.
    found: bool = False

    @property
    def is_file(self) -> bool:
        """Whether the id is that of a whole file or URL: its path, or the end of it."""
        return is_path_of(self.id, self.path)

    @property
    def where(self) -> Where:
        """Its place, for messages: the row that lists it, and its file or its place in a file."""
        if self.listed is not None:
            if self.listed.file == self.path:
                return self.listed
            return Where(item=str(self.listed), file=self.path)
        if self.is_file:
            return Where(file=self.path)
        return Where(file=self.path, member=self.id.removeprefix(f"{self.path}:"))


def is_path_of(id: str, path: str) -> bool:
    """Whether an id is its item's path, or the path relative to a folder."""
    return id == path or path.endswith(f"/{id}")


@dataclass(slots=True, eq=False)
class Outcome:
    """An item and, once it is embedded, its vector or its error.

    The vector is [d], float32, or as it is stored if it is from an earlier run.
    """

    item: Item
    error: str | None = None
    width: int | None = None  # pixels of the image as it is embedded
    height: int | None = None
    bytes: int | None = None  # the size of the image file
    sha256: str | None = None  # of the image file
    vector: NDArray[Any] | None = field(default=None, repr=False)
    restored: bool = False  # the vector or the error is from an earlier run
    notes: tuple[str, ...] = ()  # remarks on the image, which was embedded nonetheless
    off: str | None = None  # the image's format, if it is one that is off; it is not recorded

    @classmethod
    def of(cls, item: Item) -> Self:
        """The outcome of an item before it is embedded, with the item's error if it has one."""
        return cls(item, item.error)

    @property
    def done(self) -> bool:
        """Whether there is nothing left to embed."""
        return self.restored or self.error is not None or self.vector is not None

    def open_image(
        self,
        restore: Callable[[Outcome], None] | None = None,
        options: ImageOptions = DEFAULTS,
    ) -> Image.Image | None:
        """Read and decode the image; sets width, height, bytes, sha256 and notes.

        Args:
            restore: May fill in the outcome of an earlier image with the same SHA-256.
            options: How it is decoded.

        Returns:
            The image; None if the outcome was restored.

        Raises:
            ImageError: it cannot be read. The error has a reason and no place.
        """
        assert self.item.image is not None
        content = self.item.image.read()
        self.bytes, self.sha256 = len(content), sha256(content).hexdigest()
        if restore is not None and self.item.turned:
            restore(self)
            if self.restored:
                return None
        notes: list[str] = []
        image = decode_image(content, turned=self.item.turned, options=options, notes=notes)
        self.width, self.height = image.size
        self.notes = tuple(notes)
        return image

    def fail(self, error: CnclipError) -> None:
        """Set the error of an image that could not be read."""
        self.error = printable(error.reason)[:MAX_REASON]
        if isinstance(error, FormatOffError):
            self.off = error.format
        self.release_image()

    def release_image(self) -> None:
        """Drop the reference to the image, which may hold its bytes or keep a whole row group."""
        if self.item.image is not None:
            self.item = self.item._replace(image=None)


def spelled_id(id: int | str) -> str:
    """An id as it is recorded: characters that cannot be encoded are escaped."""
    return str(id).encode("utf-8", "backslashreplace").decode()


class Container(NamedTuple):
    """A file with several items. When it is written again, all its images count as new."""

    path: str  # as it is recorded
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str) -> Container:
        """The container at a path, which must exist."""
        state = os.stat(path)
        return cls(spelled(os.path.abspath(path)), state.st_size, state.st_mtime_ns)

    def image(self, id: str, image: ImageRef) -> Item:
        """An image in it."""
        return Item(id, *self, image=image)

    def images(self, store: ImageStore, *, named: bool) -> Iterator[Item]:
        """The images of a store. Their ids are those of the store, after the path if `named`."""
        prefix = f"{self.path}:" if named else ""
        for number, id in enumerate(store.ids):
            yield self.image(prefix + spelled_id(id), ImageRef(store, number))

    def failed(self, id: str, reason: str) -> Item:
        """A row that cannot be used."""
        return Item(id, *self, error=printable(reason))

    def skipped(self, problems: Iterable[Problem]) -> Iterator[Item]:
        """The rows that were left out."""
        for problem in problems:
            if problem.skipped:
                inner = (problem.where.member, problem.where.line)
                id = ":".join([self.path, *(spelled_id(one) for one in inner if one is not None)])
                yield self.failed(id, problem.reason)._replace(listed=problem.where)


def file_item(file: ImageFile, id: str | None = None) -> Item:
    """The item of an image file; the default id is the absolute path."""
    shown = spelled(file.path)
    image = ImageRef(file.path) if file.error is None else None
    name = shown if id is None else id
    return Item(name, shown, file.size, file.mtime_ns, image, error=file.error)
