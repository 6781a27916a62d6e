"""What every page and notebook needs of HTML: text that is only text, and images within it."""

from __future__ import annotations

import base64
import html
import io

from PIL import Image


def escaped(value: str) -> str:
    """A text as HTML shows it; halves of characters become question marks."""
    return html.escape(value.encode("utf-8", "replace").decode())


def image_url(image: Image.Image, quality: int) -> str:
    """An image of mode RGB or RGBA as a data URL, WebP of a quality from 0 to 100."""
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=quality)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
