"""The size of a JPEG XL image by its header, since its decoder has no limit of pixels."""

from __future__ import annotations

import struct

_CODESTREAM = b"\xff\x0a"
# Numbers of bits, by a selector of two bits, of a side that is no multiple of 8.
_SIDE_BITS = (9, 13, 18, 30)
# Width : height, by the ratios 1 to 7 of the header.
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_MAX_HEADER = 16
_MAX_BOXES = 1000


def jxl_size(content: bytes) -> tuple[int, int] | None:
    """The width and height in pixels that a file's header has; None if it has no such header."""
    header = _codestream(content)
    if header is None or not header.startswith(_CODESTREAM):
        return None
    bits = _Bits(header[2:])
    is_small = bits.take(1)
    height = _side(bits, is_small)
    ratio = bits.take(3)
    if ratio:
        across, down = _RATIOS[ratio - 1]
        return height * across // down, height
    return _side(bits, is_small), height


def _side(bits: _Bits, is_small: int) -> int:
    if is_small:
        return 8 * (bits.take(5) + 1)
    return bits.take(_SIDE_BITS[bits.take(2)]) + 1


class _Bits:
    """Bits, the lowest of each byte first; zeros after the end."""

    def __init__(self, content: bytes) -> None:
        self._value = int.from_bytes(content, "little")

    def take(self, count: int) -> int:
        taken = self._value & ((1 << count) - 1)
        self._value >>= count
        return taken


def _codestream(content: bytes) -> bytes | None:
    """The first bytes of the image, which is a file or in a box of one; None if there is none."""
    if content.startswith(_CODESTREAM):
        return content[:_MAX_HEADER]
    at = 0
    for _ in range(_MAX_BOXES):
        if at + 16 > len(content):
            return None
        size, kind = struct.unpack_from(">I4s", content, at)
        inner = at + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", content, inner)
            inner += 8
        if kind == b"jxlc":
            return content[inner : inner + _MAX_HEADER]
        if kind == b"jxlp":  # after the number of the part
            return content[inner + 4 : inner + 4 + _MAX_HEADER]
        if size < inner - at:  # 0: the last box
            return None
        at += size
    return None
