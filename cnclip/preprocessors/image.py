"""Opens pictures as `modelscope.preprocessors.image.load_image` does."""

from __future__ import annotations

import io
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import IO, TypeAlias

from PIL import Image, ImageOps

from ..errors import ImageError, ImageNotFoundError, InputTypeError

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview

TIMEOUT_SECONDS = 10.0
MAX_DOWNLOAD_BYTES = 64 << 20

_URL = re.compile(r"(https?|file|data):", re.IGNORECASE)
_CHUNK = 1 << 16


def load_image(
    source: ImageSource,
    *,
    timeout: float = TIMEOUT_SECONDS,
    max_bytes: int = MAX_DOWNLOAD_BYTES,
) -> Image.Image:
    """Open a picture, turn it as its EXIF orientation says, convert it to RGB.

    Args:
        source: A path; an http, https, file or data URL; or the bytes of a picture file.
        timeout: Seconds that a download may take, connecting included.
        max_bytes: Size at which a download is given up.

    Returns:
        A picture of mode RGB, loaded.

    Raises:
        ImageNotFoundError: there is no such file; also a FileNotFoundError.
        ImageError: it cannot be fetched or decoded, or has more pixels than Pillow's
            decompression-bomb limit (`PIL.Image.MAX_IMAGE_PIXELS`) allows; also an OSError.
        InputTypeError: the source is none of the above; also a TypeError.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return _decode(io.BytesIO(source), f"{len(source)} bytes")
    if not isinstance(source, str | os.PathLike):
        raise InputTypeError(f"expected a path, URL or bytes, got {type(source).__name__}")
    name = os.fspath(source)
    if isinstance(source, str) and (scheme := _URL.match(source)):
        if scheme.group(1).lower() != "file":
            return _decode(io.BytesIO(_fetch(source, timeout, max_bytes)), _shorten(source))
        name = urllib.request.url2pathname(urllib.parse.urlsplit(source).path)
    try:
        with Path(name).open("rb") as file:
            return _decode(file, name)
    except FileNotFoundError as error:
        raise ImageNotFoundError(f"{_shorten(name)}: no such file") from error
    except ImageError:
        raise
    except (OSError, ValueError) as error:
        raise ImageError(f"{_shorten(name)}: {error}") from error


def _decode(file: IO[bytes], name: str) -> Image.Image:
    try:
        with Image.open(file) as picture:
            return ImageOps.exif_transpose(picture).convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever a damaged file leads them to
        raise ImageError(f"{name}: cannot be read as a picture: {error}") from error


def _fetch(url: str, timeout: float, max_bytes: int) -> bytes:
    deadline = time.monotonic() + timeout
    content = bytearray()
    request = urllib.request.Request(url, headers={"User-Agent": "cnclip"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            # read1 answers what has come, so that a server that drips bytes meets the deadline.
            while chunk := response.read1(_CHUNK):
                content += chunk
                if len(content) > max_bytes:
                    raise ImageError(f"{_shorten(url)}: larger than {max_bytes} bytes")
                if time.monotonic() > deadline:
                    raise ImageError(f"{_shorten(url)}: not there after {timeout:g} seconds")
    except ImageError:
        raise
    except Exception as error:  # urllib, http.client, ssl and binascii each have their own
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise ImageError(f"{_shorten(url)}: cannot be fetched: {reason}") from error
    return bytes(content)


def _shorten(name: str) -> str:
    """A data URL holds the whole picture: its beginning is enough for a message."""
    return name if len(name) <= 200 else name[:60] + "..."
