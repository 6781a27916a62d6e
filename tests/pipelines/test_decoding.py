"""decode_image: faults that viewers pass over, formats that are refused, options, large images."""

from __future__ import annotations

import io
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image, TiffImagePlugin

from cnclip import errors, load_image
from cnclip.errors import ImageError
from cnclip.preprocessors import decoding
from cnclip.preprocessors.decoding import HIGH_DEPTH, REDUCED, TRANSPARENT, ImageOptions
from cnclip.preprocessors.decoding import decode_image as decode
from cnclip.preprocessors.formats import format_of
from cnclip.preprocessors.jxl_size import jxl_size

Run = Callable[..., subprocess.CompletedProcess[str]]

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
    assert sorted(callers) == ["decoding.py", "repair.py"]


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
        (b"", "of no format that Pillow knows"),
    ],
)
def test_other_files_are_named_for_what_they_are(content: bytes, kind: str) -> None:
    with pytest.raises(ImageError, match=f"^cannot be read as an image: {kind}"):
        decode(content)
