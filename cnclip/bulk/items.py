"""Items: images and texts to embed, and the outcome of each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from numpy.typing import NDArray
from PIL import Image

from .._text import MAX_REASON, printable
from ..errors import CnclipError
from ..preprocessors.image import decode_image
from ..sources.images import ImageRef
from .options import Kind


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
    vector: NDArray[Any] | None = field(default=None, repr=False)
    known: bool = False  # the vector or the error is from an earlier run

    @classmethod
    def of(cls, item: Item) -> Self:
        """The outcome of an item that has not been embedded; it has the item's error."""
        return cls(item, item.error)

    @property
    def done(self) -> bool:
        """Whether there is nothing left to embed."""
        return self.known or self.error is not None or self.vector is not None

    def open_image(self) -> Image.Image:
        """Read and decode the image, as `load_image` does; sets width, height and bytes.

        Raises:
            ImageError: it cannot be read. The error has a reason and no place.
        """
        assert self.item.image is not None
        content = self.item.image.read()
        self.bytes = len(content)
        image = decode_image(content, turned=self.item.turned)
        self.width, self.height = image.size
        return image

    def fail(self, error: CnclipError) -> None:
        """Set the error of an image that could not be read."""
        self.error = printable(error.reason)[:MAX_REASON]
        self.release_image()

    def release_image(self) -> None:
        """Drop the reference to the image, which may hold its bytes or keep a whole row group."""
        if self.item.image is not None:
            self.item = self.item._replace(image=None)


def key_of(kind: Kind, id: str, path: str, size: Any, mtime_ns: Any, text: str | None) -> int:
    """64 bits that differ if an item has changed: of a text, if its content has changed."""
    name = text or "" if kind == "texts" else f"{id}\0{path}\0{size}\0{mtime_ns}"
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
