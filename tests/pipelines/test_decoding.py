"""decode_image: faults that viewers pass over, formats that are refused, options, large images."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image, TiffImagePlugin

from cnclip import errors, load_image
from cnclip.preprocessors.decoding import HIGH_DEPTH, REDUCED, TRANSPARENT, ImageOptions
from cnclip.preprocessors.decoding import decode_image as decode
from cnclip.preprocessors.formats import format_of
from tests.support.image_files import RAMP, chunk, encoded, exif_with, jpeg_with, png_with

# tag, type (2 text, 5 rational, 10 signed rational, 12 double), count, value
WRONG_TYPES = {
    "resolution as text": (0x011A, 2, 3, b"72\0"),
    "width as text": (0x0100, 2, 3, b"64\0"),
    "maker as a number": (0x010F, 12, 1, struct.pack("<d", 1.5)),
    "signed rational of an unsigned": (0x0103, 10, 1, struct.pack("<ii", -1, 7)),
    "rational by zero": (0x011A, 5, 1, bytes(8)),
    "unknown type": (0x0110, 77, 1, b"abcd"),
    "a value outside of the file": (0x0110, 2, 1 << 20, b"\xff\xff\xff\x7f"),
}


@pytest.mark.filterwarnings("ignore:Tag data larger than file")
@pytest.mark.parametrize("wrong", WRONG_TYPES)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_exif_of_wrong_types_is_turned(format: str, wrong: str) -> None:
    exif = exif_with(WRONG_TYPES[wrong])
    content = jpeg_with(b"Exif\0\0" + exif) if format == "JPEG" else b""
    if not content:
        try:
            content = encoded(format, exif=exif)
        except Exception:  # Pillow cannot write it
            pytest.skip("cannot be written")
    assert decode(content).size in {(48, 64), (64, 48)}
    # Pillow 12 reads no entry after a value outside of the file.
    unread = wrong == "a value outside of the file" and int(PIL.__version__.split(".")[0]) < 13
    if format != "AVIF" and not unread:
        assert decode(content).size == (48, 64)


@pytest.mark.parametrize("exif", [b"garbage!", b"", b"II*\0", b"\0" * 40, b"Exif\0\0garbage"])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_exif_that_is_none(format: str, exif: bytes) -> None:
    made: dict[str, Callable[[], bytes]] = {
        "JPEG": lambda: jpeg_with(b"Exif\0\0" + exif),
        "PNG": lambda: png_with(chunk(b"eXIf", exif)),
        "WEBP": lambda: encoded("WEBP", exif=exif),
    }
    assert decode(made[format]()).size == (64, 48)


def test_exif_that_is_none_in_avif() -> None:
    content = encoded("AVIF", exif=exif_with((0x010F, 2, 3, b"ab\0")))
    broken = content.replace(b"II*\0", b"XX*\0")
    assert broken != content
    with pytest.raises(Exception, match="Exif|identify"):
        Image.open(io.BytesIO(broken))
    assert decode(broken).size in {(64, 48), (48, 64)}


BIG_TEXT = zlib.compress(b"x" * (3 << 20))
PNGS = {
    "a compressed text of 3 MB": png_with(chunk(b"zTXt", b"Comment\0\0" + BIG_TEXT)),
    "an international text of 3 MB": png_with(
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BIG_TEXT)
    ),
    "many texts": png_with(*[chunk(b"tEXt", b"a\0" + b"x" * 1_000_000)] * 70),
    "a wrong sum in a comment": png_with(chunk(b"tEXt", b"Comment\0hello", check=5)),
    "a wrong sum in the EXIF": png_with(chunk(b"eXIf", exif_with(), check=5)),
    "a damaged color profile": png_with(chunk(b"iCCP", b"x\0\0" + b"not zlib")),
    "a short resolution": png_with(chunk(b"pHYs", b"\0")),
    "a wrong sum of an unknown chunk": png_with(chunk(b"abCd", b"1", check=1)),
}


@pytest.mark.parametrize("fault", PNGS)
def test_metadata_of_a_png(fault: str) -> None:
    assert np.array_equal(np.asarray(decode(PNGS[fault]))[..., 0], RAMP)


def test_the_orientation_survives_the_repair_of_a_png() -> None:
    content = png_with(chunk(b"eXIf", exif_with()), chunk(b"tEXt", b"a\0b", check=5))
    assert decode(content).size == (48, 64)


SEGMENTS = {
    "photoshop": (0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\xff\xff\xff\xff"),
    "a color profile": (0xE2, b"ICC_PROFILE\0"),
    "a second image": (0xE2, b"MPF\0II*\0\xff\xff\xff\xff"),
    "adobe": (0xEC, b"Ducky\0"),
    "a comment": (0xFE, b"\xff\xfe\0"),
    "XMP": (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation='a'/>\xff"),
    "JFIF": (0xE0, b"JFIF\0"),
    "a color transform": (0xEE, b"Adobe"),
}


@pytest.mark.parametrize("kind", SEGMENTS)
@pytest.mark.filterwarnings("ignore:Image appears to be a malformed MPO")
def test_damaged_segments_of_a_jpeg(kind: str) -> None:
    marker, segment = SEGMENTS[kind]
    assert decode(jpeg_with(segment, marker)).size == (64, 48)


STRAY = {"newline": b"\r\n", "byte order mark": b"\xef\xbb\xbf", "headers": b"A: b\r\n" * 9}


@pytest.mark.parametrize("before", STRAY)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP"])
def test_bytes_before_the_image(format: str, before: str, tmp_path: Path) -> None:
    plain = encoded(format)
    content = STRAY[before] + plain
    assert np.array_equal(np.asarray(decode(content)), np.asarray(decode(plain)))
    (tmp_path / "a.jpg").write_bytes(content)
    assert load_image(tmp_path / "a.jpg").size == (64, 48)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 20}])
def test_a_jpeg_without_its_end_mark(options: dict[str, object]) -> None:
    plain = encoded("JPEG", **options)
    assert np.array_equal(np.asarray(decode(plain[:-2])), np.asarray(decode(plain)))
    for cut in (6, 30, len(plain) // 3):
        with pytest.raises(errors.ImageError, match="(?i)truncated"):
            decode(plain[:-cut])


def test_tags_of_a_tiff() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[282], tags.tagtype[282] = "72", 2
    tags[283], tags.tagtype[283] = "72", 2
    tags[296], tags.tagtype[296] = 3, 3
    content = encoded("TIFF", tiffinfo=tags)
    assert np.array_equal(np.asarray(decode(content))[..., 0], RAMP)


# Formats that are not opened


def test_a_file_of_another_name_starts_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gs = tmp_path / "gs"
    gs.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    wrapped = b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 30, len(eps)) + bytes(18) + eps
    for number, content in enumerate((eps, wrapped)):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(content)
        for source in (path, content, path.as_uri()):
            with pytest.raises(errors.ImageError, match="PostScript, which would start a program"):
                load_image(source)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    "head",
    [b"GRIB\0\0\0\1", b"BUFR", b"\x89HDF\r\n\x1a\n", b"\xd7\xcd\xc6\x9a\0\0", b"\0\0\1\xb3"],
)
def test_stubs_are_not_opened(head: bytes) -> None:
    with pytest.raises(errors.ImageError, match="of no format that Pillow knows"):
        decode(head + bytes(200))


def test_every_format_that_is_opened_is_known_by_its_content() -> None:
    formats = ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "QOI"]
    for format in formats:
        found = format_of(encoded(format)[:512])
        assert found == format, format
    assert [format_of(text) for text in (b"", b"text", b"%!PS", b"BOM", b"P1x")] == [None] * 5


# Options


def deep(kind: str) -> bytes:
    ramp = np.linspace(0, 1, 64)[None, :].repeat(4, 0)
    scale, dtype = {"16": (65535, "u2"), "12": (4095, "u2"), "8": (255, "u2"), "32": (2**31, "i4")}[
        kind.rstrip("f")
    ]
    if kind.endswith("f"):
        array = (ramp * (1 if kind == "8f" else 255)).astype(np.float32)
        return encoded("TIFF", Image.fromarray(array))
    array = np.minimum(ramp * scale, 2**31 - 1).round().astype(dtype)
    return encoded("PNG" if dtype == "u2" else "TIFF", Image.fromarray(array))


@pytest.mark.parametrize("kind", ["16", "12", "8", "8f", "16f", "32"])
def test_depth(kind: str) -> None:
    notes: list[str] = []
    content = deep(kind)
    with Image.open(io.BytesIO(content)) as image:
        modelscope = np.asarray(image.convert("RGB"))
    assert np.array_equal(np.asarray(decode(content, notes=notes)), modelscope)
    assert notes == [HIGH_DEPTH]
    scaled = np.asarray(decode(content, options=ImageOptions(depth="scale")))[0, :, 0].astype(int)
    expected = np.linspace(0, 255, 64).round()
    assert np.abs(scaled - expected).max() <= (1 if kind == "32" else 0) + 1


def test_depth_of_odd_values() -> None:
    values = np.array([[np.nan, np.inf, -np.inf, -1, 3]], np.float32)
    image = Image.fromarray(values)
    scaled = decode(encoded("TIFF", image), options=ImageOptions(depth="scale"))
    assert scaled.mode == "RGB"
    assert np.asarray(scaled)[0, :, 0].tolist() == [64, 64, 64, 0, 255]
    black = Image.fromarray(np.zeros((2, 2), np.uint16))
    assert (
        decode(encoded("PNG", black), options=ImageOptions(depth="scale")).getextrema()[0][1] == 0
    )


def drawings() -> dict[str, bytes]:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.putpixel((3, 3), (0, 0, 0, 255))
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([0, 0, 0, 0, 0, 0])
    palette.putpixel((3, 3), 1)
    gray = image.convert("LA")
    rgb = Image.new("RGB", (8, 8), (9, 9, 9))
    rgb.putpixel((3, 3), (0, 0, 0))
    return {
        "rgba": encoded("PNG", image),
        "gray": encoded("PNG", gray),
        "palette": encoded("PNG", palette, transparency=0),
        "gif": encoded("GIF", palette, transparency=0),
        "webp": encoded("WEBP", image, lossless=True, exact=True),
        "a color": encoded("PNG", rgb, transparency=(9, 9, 9)),
    }


@pytest.mark.parametrize("kind", drawings())
@pytest.mark.parametrize("turned", [True, False])
def test_background(kind: str, turned: bool) -> None:
    content, notes = drawings()[kind], list[str]()
    plain = decode(content, notes=notes, turned=turned)
    with Image.open(io.BytesIO(content)) as image:
        expected = image.convert("RGB") if turned else image
        assert np.array_equal(np.asarray(plain), np.asarray(expected))
    assert notes == [TRANSPARENT]
    for color, value in (("white", 255), ("#808080", 128)):
        shown = decode(content, options=ImageOptions(background=color), turned=turned)
        assert (shown.getpixel((0, 0)), shown.getpixel((3, 3))) == ((value,) * 3, (0, 0, 0))


def test_opaque_images_have_no_note() -> None:
    notes: list[str] = []
    for mode in ("RGB", "RGBA", "L", "LA", "1", "P", "CMYK"):
        format = "TIFF" if mode == "CMYK" else "PNG"
        image = Image.new(mode, (4, 4), 1 if mode in ("1", "P") else "white")
        decode(encoded(format, image), notes=notes)
    assert notes == []


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "AVIF"])
def test_the_middle_frame(format: str) -> None:
    colors = ["black", "red", "lime", "blue", "white"]
    first, *rest = [Image.new("RGB", (16, 16), color) for color in colors]
    content = encoded(format, first, save_all=True, append_images=rest, duration=50)
    assert max(high for _, high in decode(content).getextrema()) < 9  # type: ignore[misc]
    middle = decode(content, options=ImageOptions(frame="middle")).getpixel((8, 8))
    assert middle[1] > 240 and max(middle[0], middle[2]) < 15  # type: ignore[index]
    alone = encoded(format, rest[0])
    assert decode(alone, options=ImageOptions(frame="middle")).size == (16, 16)


def test_pages_and_views_are_not_frames() -> None:
    first, second = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")
    for format in ("TIFF", "MPO"):
        content = encoded(format, first, save_all=True, append_images=[second])
        found = decode(content, options=ImageOptions(frame="middle")).getpixel((8, 8))
        assert found[0] > 240, format  # type: ignore[index]


def test_options_are_checked() -> None:
    with pytest.raises(errors.InvalidInputError, match="background: expected a color"):
        ImageOptions(background="wite")


# Many pixels


def test_a_jpeg_above_the_limit_is_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.linear_gradient("L").resize((3000, 2000)).convert("RGB")
    content = encoded("JPEG", image)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    notes: list[str] = []
    found = decode(content, notes=notes)
    assert (found.size, notes) == ((1500, 1000), [REDUCED])
    reduced = np.asarray(image.resize((1500, 1000), Image.Resampling.BOX)).astype(int)
    assert np.abs(np.asarray(found) - reduced).mean() < 2
    # A progressive one needs the memory of the full size.
    message = (
        r"3000 x 2000 pixels .*bomb; the limit is 2000000, raise it with --max-pixels or \$CNC"
    )
    for other in (encoded("JPEG", image, progressive=True), encoded("PNG", image)):
        with pytest.raises(errors.ImageError, match=message):
            decode(other)
        assert decode(other, options=ImageOptions(max_pixels=6_000_000)).size == (3000, 2000)
        monkeypatch.setenv("CNCLIP_MAX_PIXELS", "6000000")
        assert decode(other).size == (3000, 2000)
        monkeypatch.delenv("CNCLIP_MAX_PIXELS")
    # Fewer than twice the model's resolution would change the embedding.
    with pytest.raises(errors.ImageError, match="the limit is 100000"):
        decode(content, options=ImageOptions(max_pixels=100_000))


def test_turned_and_reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded("JPEG", Image.new("RGB", (3000, 2000)), exif=exif)
    assert decode(content, options=ImageOptions(max_pixels=2_000_000)).size == (1000, 1500)


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNCLIP_MAX_PIXELS", "many")
    with pytest.raises(errors.InvalidInputError, match="CNCLIP_MAX_PIXELS: expected a number"):
        decode(encoded("PNG"))


def test_a_warning_that_is_an_error_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with pytest.raises(errors.ImageError, match="exceeds limit of 2000 pixels"):
        decode(encoded("PNG"))


def test_nothing_is_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    for source in (b"", tmp_path / "a.png", "data:image/png,"):
        with pytest.raises(errors.ImageError, match="an empty file"):
            load_image(source)
