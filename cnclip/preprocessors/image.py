"""Opens images as `modelscope.preprocessors.image.load_image` does."""

from __future__ import annotations

import logging
import os
import re
import urllib.parse
from pathlib import Path
from typing import TypeAlias

from PIL import Image

from .._files import open_file
from .._text import first_line, hide_secrets
from ..errors import ImageError, ImageNotFoundError, InputTypeError
from ._urls import INVISIBLE, stripped
from .decoding import DEFAULTS, ImageOptions, decode_image
from .pillow_warnings import PillowWarnings

logger = logging.getLogger("cnclip")

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview

MAX_DOWNLOAD_BYTES = 64 << 20
# Far above any file whose image Pillow accepts.
MAX_FILE = 1 << 30
# Messages show no more than the beginning of longer names, such as data URLs.
MAX_SHOWN_NAME = 200

_SCHEME = re.compile(rf"[\s{INVISIBLE}]*([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_URL = re.compile(rf"[\s{INVISIBLE}]*(https?|file|data):", re.IGNORECASE)


def load_image(
    source: ImageSource,
    *,
    timeout: float | None = None,
    max_bytes: int = MAX_DOWNLOAD_BYTES,
    name: str | None = None,
    options: ImageOptions = DEFAULTS,
) -> Image.Image:
    """Open an image, turn it as its EXIF orientation says, convert it to RGB.

    Args:
        source: A path; an http, https, file or data URL; or the bytes of an image file.
        timeout: Seconds that a download may take, with all tries; by default the value of the
            environment variable CNCLIP_TIMEOUT, or 10.
        max_bytes: Size above which a download is stopped.
        name: The name of bytes in messages, by default their number.
        options: How the file is decoded; by default as ModelScope does.

    Returns:
        An image of mode RGB, loaded.

    Raises:
        ImageNotFoundError: there is no such file; also a FileNotFoundError.
        ImageError: it cannot be fetched or decoded, is not a regular file, is larger than 1 GiB, or
            has more pixels than the limit (`$CNCLIP_MAX_PIXELS`, by default twice
            `PIL.Image.MAX_IMAGE_PIXELS`), unless it is a JPEG, which is decoded at a reduced scale;
            also an OSError.
        InputTypeError: the source has another type; also a TypeError.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        content = bytes(source)
        name = name or f"{len(content)} bytes"
    elif isinstance(source, str | os.PathLike):
        content = None
        name = os.fsdecode(source)
    else:
        raise InputTypeError(f"expected a path, URL or bytes, got {type(source).__name__}")
    warnings: list[str] = []
    try:
        with PillowWarnings(warnings):
            if content is not None:
                return decode_image(content, options=options)
            if isinstance(source, str) and is_url(source):
                place = located(source)
                if isinstance(place, str):
                    return decode_image(fetch(place, timeout, max_bytes), options=options)
                name = os.fspath(place)
            with open_file(name) as file:
                if os.fstat(file.fileno()).st_size > MAX_FILE:
                    raise ImageError(f"a file of more than {MAX_FILE} bytes")
                return decode_image(file, options=options)
    except ImageError as error:
        raise error.at(file=shown_name(name)) from error.__cause__
    except FileNotFoundError as error:
        raise ImageNotFoundError(not_found(name), file=shown_name(name)) from error
    except (OSError, ValueError) as error:
        raise ImageError(first_line(error), file=shown_name(name)) from error
    finally:
        for warning in warnings:
            logger.warning("%s: %s", shown_name(name), warning)


def fetch(url: str, timeout: float | None = None, max_bytes: int = MAX_DOWNLOAD_BYTES) -> bytes:
    """Download the content of an http, https or data URL.

    Args:
        url: The URL.
        timeout: As for `load_image`.
        max_bytes: Size above which the download is stopped.

    Raises:
        ImageError: it cannot be fetched. The error does not name the URL.
    """
    from ._download import download  # which imports HTTP, TLS and more

    try:
        return download(url, timeout, max_bytes)
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot be fetched: {first_line(error)}") from error


def not_found(value: str) -> str:
    """The reason why there is no file at a path, which may be a URL of a kind that is not read."""
    scheme = _SCHEME.match(value)
    if scheme is None or is_url(value):
        return "no such file"
    return f"{scheme[1].lower()} URLs are not read; expected a path, or an http, https or file URL"


def is_foreign_url(value: str) -> bool:
    """Whether this looks like a URL, and is not of a kind that images are read from."""
    return _SCHEME.match(value) is not None and not is_url(value)


def is_url(value: str) -> bool:
    """Whether this is a URL of a kind that images are read from."""
    return _URL.match(value) is not None


def is_remote(value: object) -> bool:
    """Whether this is an http or https URL."""
    match = _URL.match(value) if isinstance(value, str) else None
    return match is not None and match[1].lower().startswith("http")


def located(value: str, folder: str | os.PathLike[str] = "") -> Path | str:
    """The path that a path or a file: URL refers to, or another URL. Paths start at the folder.

    Raises:
        ImageError: it is a malformed file: URL, or of another machine. The error has a reason and
            no place.
    """
    scheme = _URL.match(value)
    if scheme is None:
        return Path(folder, value)
    value = stripped(value)
    if scheme[1].lower() != "file":
        return value
    try:
        parts = urllib.parse.urlsplit(value)
    except ValueError as error:
        raise ImageError(f"not a URL: {first_line(error)}") from error
    if parts.netloc.lower() not in ("", "localhost"):
        raise ImageError(
            f"a file of another machine, {parts.netloc}: a URL of a file here has three slashes, "
            "file:///PATH"
        )
    try:
        raw = parts.path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ImageError(f"not a URL: {first_line(error)}") from error
    return Path(os.fsdecode(urllib.parse.unquote_to_bytes(raw)))


def shown_name(name: str) -> str:
    """A name for messages: of a long one, such as a data URL, the beginning; without secrets."""
    name = hide_secrets(name) if is_url(name) and name.lstrip()[:5].lower() != "data:" else name
    return (name if len(name) <= MAX_SHOWN_NAME else name[:60] + "...") or "''"
