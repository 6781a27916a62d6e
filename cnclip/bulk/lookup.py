"""Opens an image again, by the id and the path that are recorded with its embedding."""

from __future__ import annotations

import os
import threading
from functools import lru_cache

from PIL import Image

from .._text import first_line
from ..errors import CnclipError, ImageError
from ..preprocessors.decoding import decode_image
from ..preprocessors.image import is_url
from ..sources.images import ImageRef
from ..sources.parquet_files import PARQUET_SUFFIX
from ..sources.tar_files import TAR_SUFFIX, is_compressed
from ..sources.zip_files import ZIP_SUFFIX
from .items import image_item, open_sources
from .outcomes import Container, Item

# The list of images of larger archives would take too much of a search's time and memory.
MAX_ARCHIVE = 200_000
_ARCHIVES_KEPT = 8
# Archives that were embedded with `encoding` have names in one of these, most likely.
_ARCHIVES = (TAR_SUFFIX, ZIP_SUFFIX)
_ENCODINGS = ("big5", "cp932", "cp949", "cp437")
_lock = threading.Lock()
# Files that have images inside. Images in other tables have their own paths.
_CONTAINERS = frozenset({TAR_SUFFIX, ZIP_SUFFIX, PARQUET_SUFFIX, ".tsv"})


def open_recorded(id: str, path: str) -> Image.Image:
    """The image of an embedding.

    Args:
        id: As it is recorded.
        path: As it is recorded: an image's file or URL; or an archive or table with up to 200,000
            images. The lists of the last few archives stay in memory. A table must have columns
            of images and ids with usual names: images that were embedded with `column` or
            `id_column` are not found.

    Returns:
        As `load_image` returns it, mode RGB.

    Raises:
        ImageError: it cannot be read, or does not exist any more.
    """
    try:
        return decode_image(_image(id, path).read(), turned=True)
    except ImageError as error:
        raise error.at(file=path) from error


def read_recorded(id: str, path: str) -> bytes:
    """The image file of an embedding, as it is stored.

    Args:
        id: As for `open_recorded`.
        path: As for `open_recorded`.

    Raises:
        ImageError: it cannot be read, or does not exist any more.
    """
    try:
        return _image(id, path).read()
    except ImageError as error:
        raise error.at(file=path) from error


def holds_many(path: str) -> bool:
    """Whether a recorded path is that of an archive or table, in which the id finds the image."""
    if is_url(path):
        return False
    return os.path.splitext(path)[1].lower() in _CONTAINERS or is_compressed(path)


def _image(id: str, path: str) -> ImageRef:
    if not holds_many(path):
        item = image_item(path)
    else:
        try:
            container = Container.of(path)
        except (OSError, ValueError) as error:
            raise ImageError(first_line(error)) from error
        if not os.path.isfile(path):
            raise ImageError("not a file")
        with _lock:  # so that threads that ask for images of one archive list it only once
            items = _items(path, container.size, container.mtime_ns, None)
            for encoding in _ENCODINGS if path.lower().endswith(_ARCHIVES) else ():
                if isinstance(items, str) or id in items:
                    break
                items = _items(path, container.size, container.mtime_ns, encoding)
        if isinstance(items, str):
            raise ImageError(items)
        if id not in items:
            raise ImageError(f"has no image {id} that can be read")
        item = items[id]
    if item.image is None:
        raise ImageError(item.error or "has no image")
    return item.image


@lru_cache(_ARCHIVES_KEPT)
def _items(path: str, size: int, mtime_ns: int, encoding: str | None) -> dict[str, Item] | str:
    """The images of an archive by their ids; or why they cannot be read, which is kept too."""
    found: dict[str, Item] = {}
    try:
        for item in open_sources(path, encoding=encoding).items():
            if len(found) == MAX_ARCHIVE:
                return f"has more than {MAX_ARCHIVE:,} images"
            if item.image is not None and isinstance(item.image.origin, bytes):
                return "compressed, so that single images cannot be read"
            found[item.id] = item
    except CnclipError as error:
        return error.reason
    except OSError as error:
        return first_line(error)
    return found
