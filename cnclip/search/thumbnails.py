"""Small images of what was found, for a terminal or a page."""

from __future__ import annotations

import re

from PIL import Image

from ..bulk import open_recorded
from ..errors import ImageError
from .collection import Hit

_OF_THE_NETWORK = re.compile(r"https?:", re.IGNORECASE)


def thumbnail(hit: Hit, width: int, height: int) -> Image.Image | None:
    """An image made to fit.

    Args:
        hit: What was found.
        width: Pixels at most.
        height: The same.

    Returns:
        Mode RGB; None of texts, and where there is no image to be read. What lies on the network
        is not fetched.
    """
    if hit.text is not None or _OF_THE_NETWORK.match(hit.path):
        return None
    try:
        image = open_recorded(hit.id, hit.path)
    except ImageError:
        return None
    image.thumbnail((width, height))
    return image
