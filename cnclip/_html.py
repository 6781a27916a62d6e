"""HTML shared by pages and notebooks: escaped text, images as data URLs, a page without links."""

from __future__ import annotations

import base64
import html
import io

from PIL import Image

from ._locale import Language


def escape(text: object) -> str:
    """Return the text of a value, escaped for HTML; lone surrogates become question marks."""
    return html.escape(str(text).encode("utf-8", "replace").decode())


def image_url(image: Image.Image, quality: int) -> str:
    """Return an image as a data URL of type WebP.

    Args:
        image: An image of any mode; modes other than RGB and RGBA are converted.
        quality: WebP's quality, 0 to 100.
    """
    if image.mode not in ("RGB", "RGBA"):
        transparent = "A" in image.getbands() or "transparency" in image.info
        image = image.convert("RGBA" if transparent else "RGB")
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=quality)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def page(title: str, style: str, body: str, language: Language) -> str:
    """Return a page that needs no other file and no network.

    Args:
        title: The page's title, not escaped.
        style: CSS rules, added to those of every page.
        body: HTML, already escaped.
        language: The language of the page's own words.
    """
    return (
        f'<!doctype html>\n<html lang="{language}"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>\n{_STYLE}{style}</style></head><body><main>\n"
        f"{body}</main></body></html>\n"
    )


_STYLE = """\
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, "Noto Sans CJK SC", "Microsoft YaHei", sans-serif; margin: 0 }
main { max-width: 1180px; margin: auto; padding: 24px }
"""
