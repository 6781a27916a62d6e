"""Opens images as `modelscope.preprocessors.image.load_image` does."""

from __future__ import annotations

import io
import os
import re
import urllib.parse
from pathlib import Path
from typing import IO, TypeAlias

from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import ImageError, ImageNotFoundError, InputTypeError
from .download import download

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview

TIMEOUT_SECONDS = 10.0
MAX_DOWNLOAD_BYTES = 64 << 20

_URL = re.compile(r"(https?|file|data):", re.IGNORECASE)


def load_image(
    source: ImageSource,
    *,
    timeout: float = TIMEOUT_SECONDS,
    max_bytes: int = MAX_DOWNLOAD_BYTES,
) -> Image.Image:
    """Open an image, turn it as its EXIF orientation says, convert it to RGB.

    Args:
        source: A path; an http, https, file or data URL; or the bytes of an image file.
        timeout: Seconds that a download may take, connecting included.
        max_bytes: Size at which a download is given up.

    Returns:
        An image of mode RGB, loaded.

    Raises:
        ImageNotFoundError: there is no such file; also a FileNotFoundError.
        ImageError: it cannot be fetched or decoded, or has more pixels than Pillow's
            decompression-bomb limit (`PIL.Image.MAX_IMAGE_PIXELS`) allows; also an OSError.
        InputTypeError: the source is none of the above; also a TypeError.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        content = bytes(source)
        return _decode(io.BytesIO(content), f"{len(content)} bytes")
    if not isinstance(source, str | os.PathLike):
        raise InputTypeError(f"expected a path, URL or bytes, got {type(source).__name__}")
    name = os.fsdecode(source)
    scheme = _URL.match(source) if isinstance(source, str) else None
    if scheme is not None and scheme.group(1).lower() != "file":
        try:
            content = fetch(name, timeout, max_bytes)
        except ImageError as error:
            raise ImageError(f"{_shown(name)}: {error}") from error.__cause__
        return _decode(io.BytesIO(content), _shown(name))
    try:
        if scheme is not None:
            name = os.fsdecode(urllib.parse.unquote_to_bytes(urllib.parse.urlsplit(name).path))
        with Path(name).open("rb") as file:
            return _decode(file, _shown(name))
    except FileNotFoundError as error:
        raise ImageNotFoundError(f"{_shown(name)}: no such file") from error
    except ImageError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{_shown(name)}: {reason}") from error


def _decode(file: IO[bytes], name: str) -> Image.Image:
    try:
        with Image.open(file) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name}: cannot be read as an image: of no format that Pillow knows"
        ) from error
    except Exception as error:  # Pillow's plugins raise whatever a damaged file leads them to
        raise ImageError(f"{name}: cannot be read as an image: {error}") from error


def fetch(url: str, timeout: float = TIMEOUT_SECONDS, max_bytes: int = MAX_DOWNLOAD_BYTES) -> bytes:
    """The bytes behind an http, https or data URL.

    Raises:
        ImageError: they cannot be fetched; says why, but not which.
    """
    try:
        return download(url, timeout, max_bytes)
    except OSError as error:
        raise ImageError(f"cannot be fetched: {error}") from error


def _shown(name: str) -> str:
    """A name as messages have it: of a data URL the beginning, and nothing that moves a cursor."""
    short = name if len(name) <= 200 else name[:60] + "..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in short) or "''"
