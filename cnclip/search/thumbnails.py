"""Small pictures of what was found, for a terminal or a page."""

from __future__ import annotations

import re

from PIL import Image

from ..errors import ImageError
from ..preprocessors.image import load_image

_OF_THE_NETWORK = re.compile(r"https?:", re.IGNORECASE)


def thumbnail(path: str, width: int, height: int) -> Image.Image | None:
    """A picture made to fit.

    Args:
        path: Its file or file: URL.
        width: Pixels at most.
        height: The same.

    Returns:
        Mode RGB; None where there is no picture to be read at that path, as of those in archives.
        What lies on the network is not fetched.
    """
    if _OF_THE_NETWORK.match(path):
        return None
    try:
        picture = load_image(path)
    except ImageError:
        return None
    picture.thumbnail((width, height))
    return picture
