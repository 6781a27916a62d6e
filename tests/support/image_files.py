"""Image files of the tests, whole and with faults."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

RAMP = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8) * 2


def encoded(format: str, image: Image.Image | None = None, **options: object) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(RAMP).convert("RGB") if image is None else image
    image.save(stream, format, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def chunk(kind: bytes, content: bytes, check: int | None = None) -> bytes:
    check = zlib.crc32(kind + content) if check is None else check
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def png_with(*chunks: bytes) -> bytes:
    plain = encoded("PNG")
    return plain[:33] + b"".join(chunks) + plain[33:]


def jpeg_with(segment: bytes, marker: int = 0xE1) -> bytes:
    plain = encoded("JPEG")
    return plain[:2] + struct.pack(">BBH", 0xFF, marker, len(segment) + 2) + segment + plain[2:]


def exif_with(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF with an orientation of 6 and entries of (tag, type, count, value)."""
    rows = sorted([(0x0112, 3, 1, b"\6\0\0\0"), *entries])
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(rows))
    body, extra = b"", b""
    start = len(head) + 12 * len(rows) + 4
    for tag, kind, count, value in rows:
        if len(value) > 4:
            value, extra = struct.pack("<I", start + len(extra)), extra + value
        body += struct.pack("<HHI", tag, kind, count) + value.ljust(4, b"\0")
    return head + body + bytes(4) + extra
