"""Opens a picture again, by the id and the path that are recorded with its embedding."""

from __future__ import annotations

import os
import threading
from functools import lru_cache

from PIL import Image

from ..errors import CnclipError, ImageError
from ..preprocessors.image import load_image
from .items import Given, Item, printable, reason
from .sources import open_sources
from .tables import is_url

# Of larger archives the list of pictures would take too much of a search's time and memory.
LARGEST_ARCHIVE = 200_000
_ARCHIVES_KEPT = 8
_lock = threading.Lock()
# Files that hold pictures: of those in other files' lists the path is their own.
_HOLDERS = frozenset({".tar", ".zip", ".tsv", ".parquet"})


def open_recorded(id: str, path: str) -> Image.Image:
    """The picture of an embedding.

    Args:
        id: As it is recorded.
        path: As it is recorded: a picture's file or URL; or an archive or table with up to 200,000
            pictures. Of these the last few stay listed in memory.

    Returns:
        As `load_image` gives it, mode RGB.

    Raises:
        ImageError: it cannot be read, or is there no more; says why.
    """
    if not holds_many(path):
        return load_image(path)
    try:
        state = os.stat(path)
        if not os.path.isfile(path):
            raise ImageError(f"{printable(path)}: not a file")
    except OSError as error:
        raise ImageError(f"{printable(path)}: {reason(error)}") from error
    with _lock:  # that threads that ask for pictures of one archive do not each list it
        items = _items(path, state.st_size, state.st_mtime_ns)
    if isinstance(items, str):
        raise ImageError(f"{printable(path)}: {items}")
    item = items.get(id)
    if item is None or item.read is None:
        raise ImageError(f"{printable(path)}: holds no picture {printable(id)} that can be read")
    return item.open()


def holds_many(path: str) -> bool:
    """Whether a recorded path is that of an archive or table, where the id tells the picture."""
    return not is_url(path) and os.path.splitext(path)[1].lower() in _HOLDERS


@lru_cache(_ARCHIVES_KEPT)
def _items(path: str, size: int, mtime_ns: int) -> dict[str, Item] | str:
    """The pictures of an archive by their ids; or why they are not to be had, kept as well."""
    found: dict[str, Item] = {}
    try:
        for item in open_sources(path).items():
            if len(found) == LARGEST_ARCHIVE:
                return f"holds more than {LARGEST_ARCHIVE:,} pictures"
            if isinstance(item.read, Given):
                return "compressed, so that single pictures cannot be read"
            found[item.id] = item
    except (CnclipError, OSError) as error:
        return reason(error)
    return found
