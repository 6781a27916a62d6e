"""What is to be embedded: an image or a text, where it lies, and what became of it."""

from __future__ import annotations

import builtins
import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray
from PIL import Image

from ..errors import ImageError
from ..preprocessors.image import fetch, load_image

Kind = Literal["images", "texts"]

# Pillow refuses images of so many pixels long before.
MAX_FILE = 1 << 30
_NOT_FILES = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
)


@dataclass(slots=True, eq=False)
class Item:
    """An image or a text.

    Attributes:
        id: Its name, of its own among all items.
        path: Its file or URL; of what lies in an archive or table, that file.
        size: The file's bytes, and `mtime_ns`, when it was written: they tell whether it changed.
        read: Gives the bytes of an image file, or the URL to fetch. Called on threads.
        text: The text.
        error: Why it cannot be embedded.
        width: Pixels of the image as it is embedded, turned upright.
        height: The same.
        bytes: Of the image file.
        vector: The embedding, [d]: float32, or as it is stored if it was embedded before.
        kept: Whether the vector, or the error, is of an earlier run.
    """

    id: str
    path: str
    size: int | None = None
    mtime_ns: int | None = None
    read: Callable[[], bytes | str] | None = None
    text: str | None = None
    error: str | None = None
    width: int | None = None
    height: int | None = None
    bytes: int | None = None
    vector: NDArray[Any] | None = field(default=None, repr=False)
    kept: bool = False

    def open(self) -> Image.Image:
        """The image, as `load_image` opens it.

        Raises:
            ImageError: it cannot be read; says why, but not which.
        """
        content = self.content()
        self.bytes = len(content)
        image = load_image(content)
        self.width, self.height = image.size
        return image

    def content(self) -> builtins.bytes:
        """The image file's bytes, fetched if need be.

        Raises:
            ImageError: it cannot be read; says why, but not which.
        """
        assert self.read is not None
        content = self.read()
        return content if isinstance(content, bytes) else fetch(content)


class Given:
    """Gives what it was given, as a function that can be sent to other processes."""

    def __init__(self, content: bytes | str) -> None:
        self._content = content

    def __call__(self) -> bytes | str:
        """It."""
        return self._content


def key_of(kind: Kind, id: str, path: str, size: Any, mtime_ns: Any, text: str | None) -> int:
    """64 bits that differ where an item is another than before: a text by its words alone."""
    name = text or "" if kind == "texts" else f"{id}\0{path}\0{size}\0{mtime_ns}"
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def file_item(path: str, id: str | None = None) -> Item:
    """The item of an image file; one that is no file, or empty, has its error.

    Args:
        path: The file.
        id: The item's name; by default the absolute path.
    """
    path = os.path.abspath(path)
    shown = spelled(path)
    item = Item(shown if id is None else id, shown, read=partial(read_file, path))
    try:
        state = os.stat(path)
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        item.error = "no such file" if missing else reason(error)
        return item
    item.size, item.mtime_ns = state.st_size, state.st_mtime_ns
    if not stat.S_ISREG(state.st_mode):
        what = next((what for test, what in _NOT_FILES if test(state.st_mode)), "a device")
        item.error = f"{what}, not a file"
        # Reading would wait for a writer, and sizes of what is no file mean nothing.
        item.size = item.mtime_ns = None
    elif state.st_size == 0:
        item.error = "an empty file"
    elif state.st_size > MAX_FILE:
        item.error = f"a file of more than {MAX_FILE} bytes"
    return item


def read_file(path: str) -> bytes:
    """A file's bytes.

    Raises:
        ImageError: it cannot be read; says why, but not which.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ImageError("no such file") from error
    except OSError as error:
        raise ImageError(reason(error)) from error


def spelled(path: str) -> str:
    """A path as it is recorded: itself, or a file: URL where its name is not UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return Path(os.path.abspath(path)).as_uri()
    return path


def reason(error: BaseException) -> str:
    """What an exception says, on one line, without the path that stands beside it."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return printable(str(text))[:300]


def printable(text: str) -> str:
    """A text that can be stored and shown: nothing in it moves a cursor or is not Unicode."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
