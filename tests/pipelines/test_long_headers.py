"""Headers of images that would take Pillow very long to read."""

from __future__ import annotations

import io
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
