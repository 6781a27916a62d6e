"""Small pictures of what was found, for a terminal or a page."""

from __future__ import annotations

import re

from PIL import Image

from ..bulk import open_recorded
from ..errors import ImageError

_OF_THE_NETWORK = re.compile(r"https?:", re.IGNORECASE)


def thumbnail(path: str, width: int, height: int, id: str | None = None) -> Image.Image | None:
    """A picture made to fit.

    Args:
        path: Its file or file: URL, or the archive or table that holds it.
        width: Pixels at most.
        height: The same.
        id: Its name in an archive or table.

    Returns:
        Mode RGB; None where there is no picture to be read.
        What lies on the network is not fetched.
    """
    if _OF_THE_NETWORK.match(path):
        return None
    try:
        picture = open_recorded(path if id is None else id, path)
    except ImageError:
        return None
    picture.thumbnail((width, height))
    return picture
