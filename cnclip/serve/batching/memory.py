"""The memory of images while they are decoded."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import ImageError
from ...preprocessors.decoding import image_header

# Bytes per pixel, as measured: Pillow has four of an image and as many of a converted one, and the
# decoders of these formats as many again.
_PIXEL_BYTES, _MORE_PIXEL_BYTES, _MORE = 8, 16, ("WEBP", "AVIF")
# Of a file whose header Pillow does not read: one such file at a time, next to small ones.
_UNKNOWN = 50_000_000 * _PIXEL_BYTES
# After larger images, memory is returned to the system: each thread would keep as much.
_LARGE = 64 << 20


class DecodingMemory:
    """Limits the memory of the images that are decoded at the same time.

    An image waits until its pixels fit together with those of others; one always may be decoded.

    Args:
        limit: Bytes.
        seconds: How long an image waits.
    """

    def __init__(self, limit: int, seconds: float) -> None:
        self._limit, self._seconds = limit, seconds
        self._free = threading.Condition()
        self._held = 0

    @contextmanager
    def hold(self, content: bytes) -> Iterator[None]:
        """Hold the memory of an image file in which it is decoded.

        Raises:
            ImageError: it had to wait too long.
        """
        size = decoded_bytes(content)
        with self._free:
            if not self._free.wait_for(
                lambda: not self._held or self._held + size <= self._limit, self._seconds
            ):
                reason = f"could not be opened and prepared within {self._seconds:g} seconds"
                raise ImageError(reason)
            self._held += size
        try:
            yield
        finally:
            if size >= _LARGE:
                _trim()
            with self._free:
                self._held -= size
                self._free.notify_all()


def decoded_bytes(content: bytes) -> int:
    """The memory in which an image file is decoded, by the size in its header."""
    header = image_header(content)
    if header is None:
        return _UNKNOWN
    per_pixel = _MORE_PIXEL_BYTES if header.format in _MORE else _PIXEL_BYTES
    return header.width * header.height * per_pixel


def _trim() -> None:
    """Return free memory to the system, where the C library can."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
