"""Opens an image again, by the id and the path that are recorded with its embedding."""

from __future__ import annotations

import os
import threading
from functools import lru_cache

from PIL import Image

from ..errors import CnclipError, ImageError
from .archives import Holder
from .items import Given, Item, printable, reason
from .sources import open_sources
from .tables import image_item, is_url

# Of larger archives the list of images would take too much of a search's time and memory.
MAX_ARCHIVE = 200_000
_ARCHIVES_KEPT = 8
_lock = threading.Lock()
# Files that hold images: of those in other files' lists the path is their own.
_HOLDERS = frozenset({".tar", ".zip", ".tsv", ".parquet"})


def open_recorded(id: str, path: str) -> Image.Image:
    """The image of an embedding.

    Args:
        id: As it is recorded.
        path: As it is recorded: an image's file or URL; or an archive or table with up to 200,000
            images. Of these the last few stay listed in memory.

    Returns:
        As `load_image` gives it, mode RGB.

    Raises:
        ImageError: it cannot be read, or is there no more; says why.
    """
    item = _member(id, path) if holds_many(path) else image_item(path)
    if item.error is not None:
        raise ImageError(item.error, file=path)
    try:
        return item.open()
    except ImageError as error:
        raise ImageError(error.reason, file=path) from error


def _member(id: str, path: str) -> Item:
    """An image of an archive or table; one that is not to be had has its error."""
    try:
        holder = Holder.of(path)
    except OSError as error:
        return Item(id, path, error=reason(error))
    if not os.path.isfile(path):
        return Item(id, path, error="not a file")
    with _lock:  # that threads that ask for images of one archive do not each list it
        items = _items(path, holder.size, holder.mtime_ns)
    if isinstance(items, str):
        return Item(id, path, error=items)
    missing = Item(id, path, error=f"holds no image {printable(id)} that can be read")
    return items.get(id, missing)


def holds_many(path: str) -> bool:
    """Whether a recorded path is that of an archive or table, where the id tells the image."""
    return not is_url(path) and os.path.splitext(path)[1].lower() in _HOLDERS


@lru_cache(_ARCHIVES_KEPT)
def _items(path: str, size: int, mtime_ns: int) -> dict[str, Item] | str:
    """The images of an archive by their ids; or why they are not to be had, kept as well."""
    found: dict[str, Item] = {}
    try:
        for item in open_sources(path).items():
            if len(found) == MAX_ARCHIVE:
                return f"holds more than {MAX_ARCHIVE:,} images"
            if isinstance(item.read, Given):
                return "compressed, so that single images cannot be read"
            found[item.id] = item
    except (CnclipError, OSError) as error:
        return reason(error)
    return found
