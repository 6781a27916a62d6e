"""Headers of images that would take Pillow very long to read."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from cnclip.errors import ImageError
from cnclip.preprocessors import opening
from cnclip.preprocessors.decoding import decode_image, image_header

COUNT = 300_000


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    check = zlib.crc32(kind + content).to_bytes(4, "big")
    return len(content).to_bytes(4, "big") + kind + content + check


def encoded(format: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(stream, format)
    return stream.getvalue()


PNG, JPEG, GIF, PPM = (encoded(name) for name in ("PNG", "JPEG", "GIF", "PPM"))
FILES = {
    "blanks of PPM": PPM[:2] + b" " * COUNT + PPM[2:],
    "fill bytes of JPEG": JPEG[:2] + b"\xff" * COUNT + JPEG[2:],
    "empty chunks of PNG": PNG[:33] + chunk(b"prVt") * COUNT + PNG[33:],
}


@pytest.mark.parametrize("name", FILES)
def test_a_long_header_is_not_read(name: str) -> None:
    assert image_header(FILES[name]) is None


@pytest.mark.parametrize("name", ["fill bytes of JPEG", "empty chunks of PNG"])
def test_what_can_be_left_out_is_repaired(name: str) -> None:
    assert decode_image(FILES[name]).size == (3, 2)


def test_a_long_header_is_refused(tmp_path: Path) -> None:
    content = FILES["blanks of PPM"]
    with pytest.raises(ImageError):
        decode_image(content)
    path = tmp_path / "image"
    path.write_bytes(content)
    with path.open("rb") as file, pytest.raises(ImageError):
        decode_image(file)


@pytest.mark.parametrize("name", FILES)
def test_reads_are_counted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the limit, the same files are read, a byte or a chunk at a time."""
    monkeypatch.setattr(opening, "_MIN_READS", 10 * COUNT)
    assert decode_image(FILES[name]).size == (3, 2)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "PPM", "TIFF", "WEBP", "BMP"])
def test_large_images_are_not_refused(format: str) -> None:
    stream = io.BytesIO()
    noise = Image.effect_noise((2000, 1500), 90).convert("RGB")
    noise.save(stream, format)
    assert decode_image(stream.getvalue()).size == noise.size


WIDTH, HEIGHT = 160, 120
PIXELS = bytes((x * y + x) % 251 for y in range(HEIGHT) for x in range(WIDTH))
COLOURS = bytes(band for value in PIXELS for band in (value, value // 2, 255 - value))


def run_length_bmp() -> bytes:
    palette = b"".join(bytes((i, i, i, 0)) for i in range(256))
    pairs = [
        b"".join(b"\1%c" % one for one in PIXELS[at:][:WIDTH])
        for at in range(0, len(PIXELS), WIDTH)
    ]
    body = b"\0\0".join(pairs) + b"\0\0\0\1"
    start = 14 + 40 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, 8, 1, len(body), 0, 0, 256, 256)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + info + palette + body


def run_length_icns() -> bytes:
    channel = b"\x81\x07\x81\x03" * (128 * 128 // 8)  # runs of four pixels
    content = b"it32" + struct.pack(">I", 12 + 3 * len(channel)) + bytes(4) + 3 * channel
    mask = b"t8mk" + struct.pack(">I", 8 + 128 * 128) + b"\xff" * 128 * 128
    return b"icns" + struct.pack(">I", 8 + len(content) + len(mask)) + content + mask


def qoi() -> bytes:
    pixels = b"".join(b"\xfe" + COLOURS[at : at + 3] for at in range(0, len(COLOURS), 3))
    return b"qoif" + struct.pack(">IIBB", WIDTH, HEIGHT, 3, 0) + pixels + bytes(7) + b"\1"


def tiff_of_rows() -> bytes:
    """One strip for each of 30,000 rows of one byte."""
    count = 30_000
    offsets_at, counts_at = 8 + count, 8 + 5 * count
    tags = [(256, 4, 1, 8), (257, 4, 1, count), (258, 3, 1, 1), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, count, offsets_at), (278, 4, 1, 1), (279, 4, count, counts_at)]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    offsets = struct.pack(f"<{count}I", *range(8, 8 + count))
    counts = struct.pack(f"<{count}I", *[1] * count)
    head = b"II*\0" + struct.pack("<I", counts_at + 4 * count)
    return head + b"\x5a" * count + offsets + counts + directory + bytes(4)


def dds() -> bytes:
    stream = io.BytesIO()
    Image.frombytes("RGB", (WIDTH, HEIGHT), COLOURS).save(stream, "DDS")
    return stream.getvalue()


READ_BY_PIXEL = {
    "QOI": qoi(),
    "DDS": dds(),
    "BMP with run lengths": run_length_bmp(),
    "ICNS with run lengths": run_length_icns(),
    "PPM of 4 bits": b"P6 %d %d 15\n" % (WIDTH, HEIGHT) + bytes(one // 16 for one in COLOURS),
    "PGM of 10 bits": b"P5 %d %d 1023\n" % (WIDTH, HEIGHT) + b"".join(b"\1%c" % v for v in PIXELS),
    "TIFF with a strip for each row": tiff_of_rows(),
}


@pytest.mark.parametrize("name", READ_BY_PIXEL)
def test_decoders_that_read_by_pixel_or_row_may(name: str) -> None:
    content = READ_BY_PIXEL[name]
    with Image.open(io.BytesIO(content)) as expected:
        assert decode_image(content).tobytes() == expected.convert("RGB").tobytes()


def test_parts_after_the_pixels_are_counted_too() -> None:
    """Pillow reads chunks of PNG after the pixels one by one."""
    content = PNG[:-12] + chunk(b"prVt") * COUNT + PNG[-12:]
    with opening.open_bounded(io.BytesIO(content), ("PNG",)) as image, pytest.raises(SyntaxError):
        image.load()
