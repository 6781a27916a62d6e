"""Formats that few need: they are off for folders and servers, and on for an image of a program."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from cnclip import bulk, errors, load_image
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.preprocessors.decoding import ImageOptions, decode_image, image_header
from cnclip.preprocessors.formats import COMMON_FORMATS, FORMATS_VARIABLE, RARE_FORMATS
from cnclip.serve.options import limited_images
from cnclip.sources.image_names import describe_left_out

SIDE = 16
PIXELS = bytes(range(256)) * 3


def saved(format: str) -> bytes:
    stream = io.BytesIO()
    Image.frombytes("RGB", (SIDE, SIDE), PIXELS).save(stream, format)
    return stream.getvalue()


def photoshop() -> bytes:
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, SIDE, SIDE, 8, 3)
    return head + bytes(12) + bytes(2) + PIXELS


def quite_ok() -> bytes:
    pixels = b"".join(b"\xfe" + PIXELS[at : at + 3] for at in range(0, len(PIXELS), 3))
    return b"qoif" + struct.pack(">IIBB", SIDE, SIDE, 3, 0) + pixels + bytes(7) + b"\1"


def sun() -> bytes:
    return struct.pack(">8I", 0x59A66A95, SIDE, SIDE, 24, len(PIXELS), 1, 0, 0) + PIXELS


FILES = {
    **{name: saved(name) for name in ("DDS", "ICNS", "PCX", "SGI", "TGA")},
    "PSD": photoshop(),
    "QOI": quite_ok(),
    "SUN": sun(),
}


def test_the_files_are_of_all_rare_formats() -> None:
    assert set(FILES) == set(RARE_FORMATS)
    for name, content in FILES.items():
        assert Image.open(io.BytesIO(content)).format == name


@pytest.mark.parametrize("name", RARE_FORMATS)
def test_a_rare_format_is_opened_unless_it_is_off(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = FILES[name]
    shown = "of no format" if name == "TGA" else f"{name} is a rare format.* --formats all"
    assert load_image(content).size == decode_image(content).size
    with pytest.raises(errors.ImageError, match=shown):
        decode_image(content, options=ImageOptions(formats="common"))
    monkeypatch.setenv(FORMATS_VARIABLE, "common")
    with pytest.raises(errors.ImageError, match=shown):
        load_image(content)
    assert image_header(content) is None
    assert decode_image(content, options=ImageOptions(formats="all")).width >= SIDE


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM"])
def test_common_formats_are_always_opened(name: str) -> None:
    assert name in COMMON_FORMATS
    options = ImageOptions(formats="common")
    assert decode_image(saved(name), options=options).size == (SIDE, SIDE)


def test_an_unknown_set_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FORMATS_VARIABLE, "jpeg")
    message = f"{FORMATS_VARIABLE}: expected common or all, got 'jpeg'"
    with pytest.raises(errors.ImageError, match=message):
        load_image(saved("PNG"))
    with pytest.raises(errors.InvalidInputError, match=message):
        bulk.EmbedOptions()


def test_folders_and_archives_leave_them_out(
    vit: MultiModalEmbeddingPipeline, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, format in {"a.png": "PNG", "b.tga": "TGA", "named.jpg": "PCX"}.items():
        (folder / name).write_bytes(saved(format))
    for name in ("c.psd", "d.PSD"):
        (folder / name).write_bytes(photoshop())
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as archive:
        archive.writestr("f.icns", FILES["ICNS"])
        archive.writestr("g.psd", photoshop())
        archive.writestr("h.png", saved("PNG"))
    sources = [folder, tmp_path / "e.zip"]
    report = bulk.embed(sources, vit, tmp_path / "out")
    assert (report.embedded, report.failed) == (2, 1)
    assert report.left_out == {".tga": 1, ".psd": 3, ".icns": 1}
    assert describe_left_out(report.left_out)[:2] == [
        "1 .icns left out: a rare format, which --formats all opens",
        "3 .psd left out: a rare format, which --formats all opens",
    ]
    assert "PCX is a rare format" in report.first_failed[0][1]
    report = bulk.embed(sources, vit, tmp_path / "all", bulk.EmbedOptions(formats="all"))
    assert (report.embedded, report.failed, report.left_out) == (8, 0, {})


def test_the_server_refuses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FORMATS_VARIABLE, raising=False)
    with limited_images(), pytest.raises(errors.ImageError, match="PSD is a rare format"):
        load_image(photoshop())
    assert load_image(photoshop()).size == (SIDE, SIDE)
    monkeypatch.setenv(FORMATS_VARIABLE, "all")
    with limited_images():
        assert load_image(photoshop()).size == (SIDE, SIDE)
