"""Image files with faults that viewers pass over, rewritten so that Pillow decodes them.

Used only after Pillow has refused a file. Pixels are never changed or made up: what is removed are
bytes around the image and metadata.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator

from .formats import HEAD, HEIF, format_of, stray_bytes
from .opening import open_bounded

_PNG = b"\x89PNG\r\n\x1a\n"
# What Pillow needs for the pixels of a PNG or APNG, and for its orientation.
_PNG_CHUNKS = frozenset(
    {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT", b"eXIf"}
)
_JPEG_END = b"\xff\xd9"
_FILL = re.compile(rb"\xff+")
_PROGRESSIVE, _SCAN = 0xC2, 0xDA
# APP0, and APP14 with the color transform; both may be damaged.
_JFIF, _ADOBE = 0xE0, 0xEE
# In HEIF and AVIF, the entry of the metadata item in the table of items.
_EXIF_ITEM = re.compile(rb"(infe[\x02\x03]\0\0.(?:.{4}|.{6}))Exif", re.DOTALL)
# The tags of TIFF that describe pixels.
_TIFF_TAGS = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320}
    | {322, 323, 324, 325, 330, 332, 338, 339, 347, 512, 513, 514, 515, 519, 520, 521, 529, 530}
    | {531, 532, 50706}
)
_IGNORED_TAG = 65000


def repaired(content: bytes) -> Iterator[bytes]:
    """Versions of a file to try, the one with the fewest changes first."""
    stray = stray_bytes(content[:HEAD])
    if stray:
        content = content[stray:]
        yield content
    found = format_of(content[:HEAD])
    if found == "JPEG":
        if _lacks_only_its_end(content):
            yield content + _JPEG_END
        yield from _jpeg_without_metadata(content, (_JFIF, _ADOBE))
        yield from _jpeg_without_metadata(content, (_ADOBE,))
        yield from _jpeg_without_metadata(content, ())
    elif found == "PNG":
        yield _png_without_metadata(content)
    elif found in ("AVIF", HEIF.name):
        yield _EXIF_ITEM.sub(rb"\1free", content)
    elif found == "WEBP":
        yield _webp_without_metadata(content)
    elif found == "TIFF":
        yield from _tiff_without_metadata(content)


def _lacks_only_its_end(content: bytes) -> bool:
    """Whether a JPEG is complete but for the mark at its end.

    Where pixels are missing, they depend on the bytes that follow.
    """
    if not _is_jpeg_image(content):
        return False
    versions = []
    for more in (b"", bytes(range(1, 255)) * 16):
        with open_bounded(io.BytesIO(content + more + _JPEG_END), ("JPEG",)) as image:
            versions.append(image.tobytes())
    return versions[0] == versions[1] and _has_all_scans(content)


def _has_all_scans(content: bytes) -> bool:
    """Whether a JPEG is not progressive, or has every bit of every coefficient."""
    components: list[int] = []
    bits: dict[int, list[int | None]] = {}  # the lowest bit of 64 coefficients by components
    for marker, segment in _jpeg_segments(content):
        if marker == _PROGRESSIVE:
            components = list(segment[6::3])
            bits = {one: [None] * 64 for one in components}
        elif marker == _SCAN and components:
            first, last, low = segment[-3], segment[-2], segment[-1] & 15
            for one in segment[1 : 1 + 2 * segment[0] : 2]:
                for at in range(first, min(last, 63) + 1):
                    bits[one][at] = low
    return all(low == 0 for lows in bits.values() for low in lows)


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The markers of a JPEG that have a length, with their content."""
    at = 2
    while (at := content.find(b"\xff", at)) >= 0 and at + 4 <= len(content):
        marker = content[at + 1]
        if marker in (0x00, 0xFF) or 0xD0 <= marker <= 0xD9:
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        yield marker, content[at + 4 : end]
        at = end


def _is_jpeg_image(content: bytes) -> bool:
    """Whether Pillow can read the headers of a JPEG."""
    try:
        with open_bounded(io.BytesIO(content), ("JPEG",)):
            return True
    except MemoryError:
        raise
    except Exception:  # Pillow raises anything on damaged files
        return False


def _jpeg_without_metadata(content: bytes, kept: tuple[int, ...]) -> Iterator[bytes]:
    parts, at = [content[:2]], 2
    while at + 4 <= len(content):
        if content[at] != 0xFF:
            return
        marker = content[at + 1]
        if marker == 0xFF and (fill := _FILL.match(content, at)):
            at = fill.end() - 1
            continue
        if marker == 0xDA:  # the pixels follow
            yield b"".join([*parts, content[at:]])
            return
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        if marker in kept or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            parts.append(content[at:end])
        at = end


def _png_without_metadata(content: bytes) -> bytes:
    parts, at = [_PNG], len(_PNG)
    while at + 12 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        kind = content[at + 4 : at + 8]
        if kind in _PNG_CHUNKS:
            check = zlib.crc32(content[at + 4 : end - 4]).to_bytes(4, "big")
            if kind != b"eXIf" or content[end - 4 : end] == check:
                parts.append(content[at:end])
        at = end
    return b"".join(parts)


def _webp_without_metadata(content: bytes) -> bytes:
    parts, at = [], 12
    while at + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, at)
        end = at + 8 + size + size % 2
        if kind == b"VP8X":  # without the flags of EXIF, XMP and a color profile
            flags = content[at + 8] & ~0b101100
            parts.append(content[at : at + 8] + bytes([flags]) + content[at + 9 : end])
        elif kind not in (b"EXIF", b"XMP ", b"ICCP"):
            parts.append(content[at:end])
        at = end
    body = b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _tiff_without_metadata(content: bytes) -> Iterator[bytes]:
    order = "<" if content[:2] == b"II" else ">"
    if content[2:4] not in (b"*\0", b"\0*"):
        return  # BigTIFF
    changed = bytearray(content)
    try:
        (at,) = struct.unpack_from(f"{order}I", content, 4)
        (count,) = struct.unpack_from(f"{order}H", content, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            (tag,) = struct.unpack_from(f"{order}H", content, entry)
            if tag not in _TIFF_TAGS:
                struct.pack_into(f"{order}H", changed, entry, _IGNORED_TAG)
    except struct.error:
        return
    yield bytes(changed)
