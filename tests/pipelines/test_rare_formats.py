"""Formats that few need: they are off for folders and servers, and on for an image of a program."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from cnclip import bulk, demo, errors, load_image
from cnclip._options import environment
from cnclip.cli import main
from cnclip.datasets import Problems
from cnclip.datasets.layouts import open_retrieval
from cnclip.demo import contact_sheet
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.preprocessors.decoding import ImageOptions, decode_image, image_header
from cnclip.preprocessors.formats import (
    COMMON_FORMATS,
    EXTRA_SUFFIXES,
    FORMATS_VARIABLE,
    IMAGE_SUFFIXES,
    JXL,
    RARE_FORMATS,
    format_of,
    format_of_suffix,
    is_tga,
    option_name,
    parse_formats,
)
from cnclip.serve.options import limited_images
from cnclip.sources.image_names import ImageNames, describe_left_out

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
    shown = f"{name} is off here; --formats all opens it, or a list with {name.lower()}, "
    assert load_image(content).size == decode_image(content).size
    with pytest.raises(errors.ImageError, match=shown):
        decode_image(content, options=ImageOptions(formats="common"))
    monkeypatch.setenv(FORMATS_VARIABLE, "common")
    with pytest.raises(errors.ImageError, match=shown):
        load_image(content)
    assert image_header(content) is None
    for formats in ("all", f"common,{name.lower()}", f" {name} , PNG"):
        assert decode_image(content, options=ImageOptions(formats=formats)).width >= SIDE


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM"])
def test_common_formats_are_always_opened(name: str) -> None:
    assert name in COMMON_FORMATS
    options = ImageOptions(formats="common")
    assert decode_image(saved(name), options=options).size == (SIDE, SIDE)


def test_single_formats_alone_are_opened() -> None:
    options = ImageOptions(formats="jpeg,psd")
    assert decode_image(saved("JPEG"), options=options).size == (SIDE, SIDE)
    assert decode_image(photoshop(), options=options).size == (SIDE, SIDE)
    for content, name in ((saved("PNG"), "PNG"), (FILES["TGA"], "TGA"), (b"\xff\x0a", JXL.name)):
        with pytest.raises(errors.FormatOffError) as caught:
            decode_image(content, options=options)
        assert caught.value.format == name
        assert pickle.loads(pickle.dumps(caught.value)).format == name
    assert "TIFF" in parse_formats("raw")


@pytest.mark.parametrize("text", ["jpg", "common,", "common psd", "common;psd", " ", "all,tgb"])
def test_an_unknown_format_is_an_error_that_lists_the_names(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = "common, all, jpeg, png, .*, psd, .*, tga, heif, jxl, raw; got "
    for make in (bulk.EmbedOptions, ImageOptions, ImageNames):
        with pytest.raises(errors.InvalidInputError, match=f"^formats: expected .*{names}"):
            make(formats=text)
    monkeypatch.setenv(FORMATS_VARIABLE, text)
    with pytest.raises(errors.ImageError, match=f"{FORMATS_VARIABLE}: expected .*{names}"):
        load_image(saved("PNG"))
    with pytest.raises(errors.InvalidInputError, match=f"{FORMATS_VARIABLE}: expected .*{names}"):
        bulk.EmbedOptions().image_options()
    assert bulk.EmbedOptions(formats="all").image_options().formats == "all"


@pytest.mark.parametrize("command", ["embed", "index", "demo --images", "eval zeroshot"])
def test_commands_name_the_variable_whose_format_is_unknown(command: str, tmp_path: Path) -> None:
    if command.startswith("eval"):
        pytest.importorskip("matplotlib")
    (tmp_path / "images" / "cat").mkdir(parents=True)
    (tmp_path / "images" / "cat" / "a.png").write_bytes(saved("PNG"))
    words = [*command.split(), str(tmp_path / "images"), "-o", str(tmp_path / "out.png")]
    run = subprocess.run(  # a new process: the modules are imported with the variable
        [sys.executable, "-m", "cnclip", *words],
        env={**os.environ, FORMATS_VARIABLE: "bmpp"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
    last = run.stderr.splitlines()[-1]
    start = f"cnclip {command.split()[0]}: {FORMATS_VARIABLE}: expected a list"
    assert last.startswith(start) and last.endswith("got 'bmpp'")


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_files_of_a_few_bytes_are_of_no_format(size: int) -> None:
    for formats in ("common", "all", "jpeg"):
        with pytest.raises(errors.ImageError, match="of no format that Pillow knows$"):
            decode_image(b"abcd"[:size], options=ImageOptions(formats=formats))
    with pytest.raises(errors.ImageError, match="nothing but zeros"):
        decode_image(bytes(size))


@pytest.mark.parametrize("command", ["embed", "index", "serve", "demo", "train", "eval retrieval"])
def test_commands_refuse_an_unknown_format(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    places = {"serve": [], "demo": [], "train": ["-o", "x"], "eval retrieval": ["x"]}
    words = [*command.split(), *places.get(command, ["x", "-o", str(tmp_path / "y.index")])]
    try:
        assert main([*words, "--formats", "common,jpg"]) == 2
    except SystemExit as ended:  # argparse
        assert ended.code == 2
    assert "--formats: expected a list of some of common, all, jpeg, " in capsys.readouterr().err


def test_every_suffix_has_a_format_with_a_name() -> None:
    for suffix in [*IMAGE_SUFFIXES, *EXTRA_SUFFIXES]:
        format = format_of_suffix(suffix)
        assert format in parse_formats("all")
        assert format in parse_formats(option_name(str(format)))
    for name in RARE_FORMATS:
        assert name in IMAGE_SUFFIXES.values()
        # TGA has no signature.
        assert format_of(FILES[name]) == (None if name == "TGA" else name)


def tga(kind: int, bits: int, *, end: bytes = b"") -> bytes:
    """A TGA of random pixels, of one of its kinds, as its specification lays it out."""
    indexed = kind & 7 == 1
    colors = 256 if indexed else 0
    head = struct.pack(
        "<BBBHHBHHHHBB", 3, indexed, kind, 0, colors, 24 * indexed, 0, 0, 5, 4, bits, 0
    )
    pixel = bytes(range(bits // 8))
    pixels = pixel * 20 if kind < 8 else (b"\x84" + pixel) * 4  # 4 runs of 5 pixels
    return head + b"abc" + bytes(3 * colors) + pixels + end


@pytest.mark.parametrize(
    "content",
    [
        tga(1, 8),
        tga(2, 24),
        tga(2, 32),
        tga(3, 8),
        tga(9, 8),
        tga(10, 24),
        tga(11, 8),
        FILES["TGA"],
    ],
)
def test_tga_is_known_by_its_header(content: bytes) -> None:
    assert Image.open(io.BytesIO(content)).format == "TGA"
    assert is_tga(content)
    assert is_tga(b"anything" + b"TRUEVISION-XFILE.\0")
    # Too short for its pixels, unless they are runs.
    assert not is_tga(content[:18]) or content[2] > 8


def test_other_files_are_not_tga() -> None:
    others = [saved(name) for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO")]
    others += [content for name, content in FILES.items() if name != "TGA"]
    others += [b"", bytes(1000), b"\xff" * 1000, b"words " * 100, b"<html>" * 100, PIXELS]
    assert not any(map(is_tga, others))


def test_folders_and_archives_leave_them_out(
    vit: MultiModalEmbeddingPipeline, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    named = {"a.png": "PNG", "b.tga": "TGA", "named.jpg": "PCX", "tga.png": "TGA", "qoi": "QOI"}
    for name, format in named.items():
        (folder / name).write_bytes(FILES[format] if format in FILES else saved(format))
    for name in ("c.psd", "d.PSD"):
        (folder / name).write_bytes(photoshop())
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as archive:
        archive.writestr("f.icns", FILES["ICNS"])
        archive.writestr("g.psd", photoshop())
        archive.writestr("h.png", saved("PNG"))
        archive.writestr("i.webp", FILES["PCX"])
    with tarfile.open(tmp_path / "j.tar", "w") as tar:
        member = tarfile.TarInfo("k.jpg")
        member.size = len(FILES["DDS"])
        tar.addfile(member, io.BytesIO(FILES["DDS"]))
    (tmp_path / "j.tar.gz").write_bytes(gzip.compress((tmp_path / "j.tar").read_bytes()))
    sources = [folder, tmp_path / "e.zip", tmp_path / "j.tar", tmp_path / "j.tar.gz"]
    # As many as are in a shard are left out one after another.
    options = bulk.EmbedOptions(shard_items=2)
    for _ in range(2):  # nothing is recorded of what is left out
        report = bulk.embed(sources, vit, tmp_path / "out", options)
        assert (report.items, report.rows, report.failed) == (2, 2, 0)
        assert report.left_out == {
            ".tga": 1,
            ".psd": 3,
            ".icns": 1,
            "pcx by content": 2,
            "tga by content": 1,
            "qoi by content": 1,
            "dds by content": 2,
        }
    assert describe_left_out(report.left_out)[:3] == [
        "1 .icns left out: --formats all opens it, or a list with icns",
        "3 .psd left out: --formats all opens it, or a list with psd",
        "1 .tga left out: --formats all opens it, or a list with tga",
    ]
    assert (
        "1 QOI under another name left out: --formats all opens it, or a list with qoi"
        in describe_left_out(report.left_out)
    )
    some = bulk.EmbedOptions(formats="common,psd,pcx", shard_items=2)
    report = bulk.embed(sources, vit, tmp_path / "out", some)
    assert (report.embedded, report.kept, report.failed) == (5, 2, 0)
    report = bulk.embed(sources, vit, tmp_path / "out", bulk.EmbedOptions(formats="all"))
    assert (report.rows, report.failed, report.left_out) == (13, 0, {})


def test_common_formats_can_be_off_too(vit: MultiModalEmbeddingPipeline, tmp_path: Path) -> None:
    for name, format in {"a.png": "PNG", "b.jpg": "JPEG", "c.webp": "WEBP"}.items():
        (tmp_path / name).write_bytes(saved(format))
    options = bulk.EmbedOptions(formats="png,jpeg")
    report = bulk.embed(tmp_path, vit, tmp_path / "out", options)
    assert (report.embedded, report.failed, report.left_out) == (2, 0, {".webp": 1})
    line = "1 .webp left out: --formats all opens it, or a list with webp"
    assert describe_left_out(report.left_out) == [line]


def test_a_suffix_is_not_taken_for_a_format() -> None:
    names = ImageNames(formats="common")
    assert not names.accept("a.png by content", lambda: b"")
    names.leave_format("PSD")
    assert describe_left_out(names.left_out) == [
        "1 PSD under another name left out: --formats all opens it, or a list with psd",
        "left out, not image files: 1 .png by content",
    ]


def test_a_file_that_is_named_fails(vit: MultiModalEmbeddingPipeline, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(photoshop())
    (tmp_path / "list.txt").write_text("a.jpg\na.jpg\n")
    for source in ("a.jpg", "list.txt"):
        report = bulk.embed(tmp_path / source, vit, tmp_path / f"{source}.out")
        assert (report.rows, report.failed, report.left_out) == (0, 1, {})
        assert "PSD is off here; --formats all" in report.first_failed[0][1]


def test_a_file_that_is_named_is_tried_again(
    vit: MultiModalEmbeddingPipeline, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(saved("PNG"))
    (tmp_path / "b.psd").write_bytes(photoshop())
    (tmp_path / "c.png").write_bytes(b"no image")
    (tmp_path / "list.txt").write_text("a.png\nb.psd\nc.png\n")
    counts = []
    for formats in ("common", "common", "common,psd", "common"):
        options = bulk.EmbedOptions(formats=formats)
        report = bulk.embed(tmp_path / "list.txt", vit, tmp_path / "out", options)
        counts.append((report.items, report.embedded, report.kept, report.failed))
    assert counts == [(3, 1, 0, 2), (3, 0, 1, 2), (3, 1, 1, 1), (3, 0, 2, 1)]


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """A data set of one class, with a PSD under its name, one under another, and a TGA."""
    folder = tmp_path / "data" / "red"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(saved("PNG"))
    (folder / "b.psd").write_bytes(photoshop())
    (folder / "c.jpg").write_bytes(photoshop())
    (folder / "d.jpg").write_bytes(FILES["TGA"])
    return folder


LEFT_OUT = [
    "1 .psd left out: --formats all opens it, or a list with psd\n",
    "1 PSD under another name left out: --formats all opens it, or a list with psd\n",
    "1 TGA under another name left out: --formats all opens it, or a list with tga\n",
]


def test_the_demo_leaves_them_out(
    classes: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["demo", "--images", str(classes), "-o", str(tmp_path / "x.png"), "红"]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert all(f"cnclip demo: {line}" in shown.err for line in LEFT_OUT)
    assert "The best of 1 image" in shown.out
    assert main([*words, "--formats", "all"]) == 0
    shown = capsys.readouterr()
    assert "left out" not in shown.err
    assert "The best of 4 images" in shown.out


def test_the_gallery_is_opened_whatever_is_off(
    vit: MultiModalEmbeddingPipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(FORMATS_VARIABLE, "jpeg")
    (tmp_path / "a.png").write_bytes(saved("PNG"))
    images = [*demo.load_gallery()[:2], demo.GalleryImage(tmp_path / "a.png", "a")]
    batch = demo.embed_images(vit, images)
    assert batch.embedded == images[:2]
    ((failed, error),) = batch.failed
    assert failed == images[2] and isinstance(error, errors.FormatOffError)
    matches = [[demo.Match(image, 1.0) for image in images[:2]]]
    assert contact_sheet.draw_contact_sheet(["a"], matches, "").width > 0


def test_the_application_says_why_a_folder_has_no_images(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("fastapi")
    (tmp_path / "a.psd").write_bytes(photoshop())
    assert main(["demo", "--ui", "--images", str(tmp_path), "--port", "0"]) == 2
    shown = capsys.readouterr().err.splitlines()
    assert "cnclip demo: 1 .psd left out: --formats all opens it, or a list with psd" in shown
    assert shown[-1].endswith("has no images")


def test_evaluation_leaves_them_out(classes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", "zeroshot", str(classes.parent)]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert f"data: {LEFT_OUT[0]}" in shown.err
    assert "red/c.jpg: cannot be read as an image: PSD is off here; --formats all" in shown.err
    assert "1 image of 1 class" in shown.out
    assert main([*words, "--formats", "common,psd"]) == 0
    assert "3 images of 1 class" in capsys.readouterr().out


def test_retrieval_and_training_take_the_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(tmp_path / "data.tar", "w") as tar:
        files = {"a.png": saved("PNG"), "a.txt": b"red", "b.psd": photoshop(), "b.txt": b"blue"}
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    words = ["eval", "retrieval", str(tmp_path / "data.tar")]
    assert main(words) == 1  # a text has no image
    shown = capsys.readouterr()
    assert LEFT_OUT[0] in shown.err
    assert "1 text, 1 image" in shown.out
    assert main([*words, "--formats", "common,psd"]) == 0
    assert "2 texts, 2 images" in capsys.readouterr().out
    # As training reads them.
    with environment({}, {FORMATS_VARIABLE: "common"}):
        problems = Problems()
        open_retrieval(tmp_path / "data.tar").locate(problems)
        assert LEFT_OUT[0].strip() in [problem.message for problem in problems.found]
    assert FORMATS_VARIABLE not in os.environ


def test_evaluation_does_not_call_an_image_missing_that_is_off(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(saved("PNG"))
    (tmp_path / "b.png").write_bytes(photoshop())
    (tmp_path / "data.csv").write_text("path,caption\na.png,red\nb.png,blue\n")
    assert main(["eval", "retrieval", str(tmp_path / "data.csv")]) == 1
    shown = capsys.readouterr().err
    assert "data.csv:3: image b.png: cannot be read as an image: PSD is off here" in shown
    assert "text 1 names images that do not exist or cannot be read: b.png" in shown


def test_the_server_refuses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FORMATS_VARIABLE, raising=False)
    with limited_images(), pytest.raises(errors.ImageError, match="PSD is off here"):
        load_image(photoshop())
    assert load_image(photoshop()).size == (SIDE, SIDE)
    monkeypatch.setenv(FORMATS_VARIABLE, "all")
    with limited_images():
        assert load_image(photoshop()).size == (SIDE, SIDE)
