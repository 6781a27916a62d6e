"""Opens image files with Pillow, whose readers of headers trust a file to be sensible.

Some read a byte or a small block at a time, in Python: a header of 50 MB of blanks, comments or
empty blocks takes half a minute. Here a file may be read only so many times for its size, and after
its header for its rows or pixels too: some decoders read pixel by pixel.
"""

from __future__ import annotations

import os
from typing import IO, Any

from PIL import Image

# Decoders read blocks of 64 kB; formats with the smallest blocks twice in 256 bytes.
_MIN_READS = 10_000
_BYTES_PER_READ = 64
# Formats with a decoder in Python, and those that contain one. ICNS has the most reads: a byte and
# the bytes that it counts, in each of three channels.
_READ_BY_PIXEL = frozenset({"BMP", "CUR", "DDS", "DIB", "ICNS", "ICO", "PPM", "QOI"})
_READS_PER_PIXEL = 6
_READS_PER_ROW = 2  # of a TIFF with a strip for each row


class _BoundedReads:
    """A file that may be read a limited number of times; otherwise the file itself."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._read = file, file.read
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        self._left = _MIN_READS + size // _BYTES_PER_READ

    def read(self, size: int = -1) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise SyntaxError("has too many small parts")  # as Pillow raises its own errors
        return self._read(size)

    def allow(self, more: int) -> None:
        self._left += more

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def open_bounded(file: IO[bytes], formats: tuple[str, ...]) -> Image.Image:
    """`PIL.Image.open` of an open file. Reading it too often is an error of Pillow."""
    bounded: Any = _BoundedReads(file)
    image = Image.open(bounded, formats=formats)
    by_pixel = _READS_PER_PIXEL * image.width if image.format in _READ_BY_PIXEL else 0
    bounded.allow(image.height * max(by_pixel, _READS_PER_ROW))
    return image
