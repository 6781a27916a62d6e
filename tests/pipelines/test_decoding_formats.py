"""Decoding of formats of other packages: HEIC, JPEG XL, raw files."""

from __future__ import annotations

import io
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnclip import errors
from cnclip.errors import ImageError
from cnclip.preprocessors import decoding
from cnclip.preprocessors.decoding import ImageOptions
from cnclip.preprocessors.decoding import decode_image as decode
from cnclip.preprocessors.jxl_size import jxl_size
from tests.support.image_files import RAMP, encoded, exif_with

Run = Callable[..., subprocess.CompletedProcess[str]]

# Formats of other packages


def test_heif(run_python: Run, tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    image = Image.fromarray(RAMP).convert("RGB")
    stream = io.BytesIO()
    heif.from_pillow(image).save(stream, quality=90)
    found = decode(stream.getvalue())
    assert found.mode == "RGB"
    assert np.abs(np.asarray(found).astype(int)[..., 0] - RAMP).mean() < 3
    stream = io.BytesIO()
    heif.from_pillow(image).save(stream, exif=exif_with())
    turned = decode(stream.getvalue())
    assert turned.size == (48, 64)
    broken = stream.getvalue().replace(exif_with(), b"garbage!".ljust(len(exif_with()), b"!"))
    assert decode(broken).size in {(48, 64), (64, 48)}
    # Pillow does not know the format afterwards. In this process imageio, which scikit-image needs,
    # may have registered it.
    (tmp_path / "image.heic").write_bytes(stream.getvalue())
    code = (
        "import sys\n"
        "from PIL import Image\n"
        "from cnclip import load_image\n"
        "print(load_image(sys.argv[1]).size, 'HEIF' in Image.OPEN)\n"
    )
    assert run_python(code, tmp_path / "image.heic").stdout == "(48, 64) False\n"


def test_jpeg_xl() -> None:
    pytest.importorskip("pillow_jxl")
    from pillow_jxl import JpegXLImagePlugin  # noqa: F401

    found = decode(encoded("JXL", lossless=True))
    assert np.array_equal(np.asarray(found)[..., 0], RAMP)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", r"HEIF: pillow-heif .*'cnclip\[heif\]'"),
        (b"\xff\x0a\xfa", r"JPEG XL: pillow-jxl-plugin .*'cnclip\[jxl\]'"),
        (b"FUJIFILMCCD-RAW 0201", r"raw format: rawpy .*'cnclip\[raw\]'"),
    ],
)
def test_packages_that_are_missing(
    head: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for module in ("pillow_heif", "pillow_jxl", "pillow_jxl.JpegXLImagePlugin", "rawpy"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(errors.ImageError, match=message):
        decode(head + bytes(100))


def test_no_other_module_opens_images() -> None:
    folder = Path(decoding.__file__).parent.parent
    callers = [p.name for p in folder.rglob("*.py") if "Image.open(" in p.read_text("utf-8")]
    assert callers == ["opening.py"]


def test_the_preview_of_a_raw_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """LibRaw is replaced: no program writes raw files."""
    import sys
    from types import SimpleNamespace

    class LibRawError(Exception):
        pass

    shown = Image.fromarray(RAMP).convert("RGB")
    preview: list[object] = []

    class Raw:
        sizes = SimpleNamespace(flip=6, raw_width=64, raw_height=48)

        def __enter__(self) -> Raw:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def extract_thumb(self) -> object:
            if not preview:
                raise LibRawError
            return preview[0]

        def postprocess(self, **_: object) -> object:
            return np.asarray(shown)

    kinds = SimpleNamespace(BITMAP=1, JPEG=2)
    module = SimpleNamespace(imread=lambda file: Raw(), LibRawError=LibRawError, ThumbFormat=kinds)
    monkeypatch.setitem(sys.modules, "rawpy", module)
    content = b"FUJIFILMCCD-RAW " + bytes(100)
    assert decode(content).size == (64, 48)
    with pytest.raises(ImageError, match="64 x 48 pixels could be a decompression bomb"):
        decode(content, options=ImageOptions(max_pixels=64 * 48 - 1))
    turned = Image.Exif()
    turned[0x0112] = 8
    for given, size in [
        (SimpleNamespace(format=1, data=np.asarray(shown)), (48, 64)),
        (SimpleNamespace(format=2, data=encoded("JPEG")), (48, 64)),
        (SimpleNamespace(format=2, data=encoded("JPEG", exif=turned)), (48, 64)),
    ]:
        preview[:] = [given]
        assert decode(content).size == size
        assert decode(content, turned=False).size == (64, 48)
    # Pillow opens these as TIFF, and would show a thumbnail of 160 x 120.
    dng = encoded("TIFF", tiffinfo={50706: b"\1\4\0\0"})
    assert decode(dng).size == (48, 64)


JXL_SIDES = ((1, 1), (8, 8), (256, 256), (257, 255), (120, 100), (16, 9), (513, 1), (1, 9000))


@pytest.mark.parametrize("use_container", [False, True])
def test_the_size_of_jpeg_xl_is_read_before_it_is_decoded(use_container: bool) -> None:
    pytest.importorskip("pillow_jxl")
    from pillow_jxl import JpegXLImagePlugin  # noqa: F401

    for size in JXL_SIDES:
        content = io.BytesIO()
        Image.new("RGB", size).save(content, "JXL", use_container=use_container, effort=1)
        assert jxl_size(content.getvalue()) == size
    lossless = io.BytesIO()
    with Image.open(io.BytesIO(encoded("JPEG"))) as jpeg:
        jpeg.save(lossless, "JXL", lossless_jpeg=True)
        assert jxl_size(lossless.getvalue()) == jpeg.size


def test_jpeg_xl_with_too_many_pixels_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pillow_jxl")
    from pillow_jxl import JpegXLImagePlugin

    content = io.BytesIO()
    Image.new("RGB", (64, 48)).save(content, "JXL", effort=1)
    limit = ImageOptions(max_pixels=64 * 48)
    assert decode(content.getvalue(), options=limit).size == (64, 48)
    monkeypatch.setattr(JpegXLImagePlugin, "Decoder", None)
    with pytest.raises(ImageError, match="64 x 48 pixels could be a decompression bomb"):
        decode(content.getvalue(), options=ImageOptions(max_pixels=64 * 48 - 1))
    # 2^30 pixels on each side, in 11 bytes.
    bomb = int.from_bytes(b"\xff\x0a", "little")
    for at, bits in ((17, 3), (19, 2**30 - 1), (52, 3), (54, 2**30 - 1)):
        bomb |= bits << at
    with pytest.raises(ImageError, match="1073741824 x 1073741824 pixels"):
        decode(bomb.to_bytes(11, "little"))


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\xff\x0a"[:1], b"\0\0\0\x0cJXL \r\n\x87\n", b"\0\0\0\x0cJXL " + bytes(100)),
        b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0\0\0\1free" + b"\xff" * 8,
    ],
)
def test_headers_of_jpeg_xl_that_are_none(content: bytes) -> None:
    assert jxl_size(content) is None


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\n <!DOCTYPE HTML><html>", "a web page"),
        (b"\xef\xbb\xbf<html>", "a web page"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing; save it as PNG"),
        (b'<?xml version="1.0"?><Error/>', "XML or SVG"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript, which would start a program"),
        (b"\0\0\0\x18ftypmp42" + bytes(100), "a video"),
        (b"\x1aE\xdf\xa3" + bytes(100), "a Matroska or WebM video"),
        (b"PK\3\4" + bytes(100), "a zip file"),
        (bytes(1000), "nothing but zeros"),
        (b"hello", "of no format that Pillow knows"),
        (b"", "an empty file"),
    ],
)
def test_other_files_are_named_for_what_they_are(content: bytes, kind: str) -> None:
    with pytest.raises(ImageError, match=f"^cannot be read as an image: {kind}"):
        decode(content)


def box(kind: bytes, content: bytes, *, long: bool = False) -> bytes:
    size = len(content) + (16 if long else 8)
    head = struct.pack(">I4sQ", 1, kind, size) if long else struct.pack(">I4s", size, kind)
    return head + content


def test_the_size_of_a_jxl_in_boxes() -> None:
    stream = b"\xff\x0a" + bytes([0b0111_1111, 0])  # small, of 256 rows and as many columns
    assert jxl_size(stream + bytes(20)) == (256, 256)
    first = box(b"JXL ", b"\r\n\x87\n") + box(b"ftyp", b"jxl \0\0\0\0jxl ", long=True)
    for inner in (box(b"jxlc", stream), box(b"jxlp", bytes(4) + stream)):
        assert jxl_size(first + inner + bytes(20)) == (256, 256)
    image = box(b"jxlc", stream) + bytes(20)
    assert jxl_size(first + box(b"free", b"") * 500 + image) == (256, 256)
    assert jxl_size(first + box(b"free", b"") * 10_000 + image) is None
    assert jxl_size(first + struct.pack(">I4s", 3, b"free") + bytes(20)) is None
    assert jxl_size(first) is None
