"""What the commands print of Pillow's warnings, and their limit of pixels."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from cnclip.assets import asset_path
from cnclip.cli import main
from cnclip.preprocessors.decoding import MAX_PIXELS_VARIABLE, decode_image
from cnclip.preprocessors.pillow_warnings import PillowWarnings, collect_warnings

REMARK = "Pillow warns: Truncated File Read"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.resetwarnings()  # pytest's, which raise
        yield


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two images with damaged metadata, one without, and one with many pixels."""
    folder = tmp_path / "photos"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x010E] = "x" * 40
    Image.new("RGB", (40, 40), "red").save(folder / "good.jpg", exif=exif)
    content = (folder / "good.jpg").read_bytes()
    at = content.index(b"Exif\0\0") + 6
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(content[: at + 20] + b"\xff" * 20 + content[at + 40 :])
    Image.new("L", (9600, 9600)).save(folder / "large.png")
    return folder


def test_embed_names_the_first_image_with_a_warning(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", str(photos), "-o", str(tmp_path / "out"), "--device", "cpu"]) == 0
    printed = capsys.readouterr().err
    assert f"cnclip embed: 2 images, the first {photos}/a.jpg: {REMARK}" in printed
    assert printed.count("Truncated") == 1
    # Neither a line of Python's code, nor a warning of sizes that are within our limit.
    assert "PIL" not in printed and "UserWarning" not in printed and "bomb" not in printed


def test_search_names_the_image_with_a_warning(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("faiss")
    index = str(tmp_path / "it.index")
    gallery = str(asset_path("gallery"))
    assert main(["index", gallery, "-o", index, "--device", "cpu"]) == 0
    image = str(photos / "b.jpg")
    assert main(["search", index, "--image", image, "--device", "cpu"]) == 0
    assert caplog.messages.count(f"{image}: {REMARK}") == 1


def test_other_warnings_stay_as_they_are() -> None:
    shown: list[object] = []
    warnings.showwarning = lambda *arguments, **_: shown.append(arguments[0])
    collect_warnings()
    collect_warnings()
    warnings.warn("something else", stacklevel=1)
    assert [str(message) for message in shown] == ["something else"]


def test_blocks_without_a_list_add_to_the_outer_one(photos: Path) -> None:
    collect_warnings()
    remarks: list[str] = []
    with PillowWarnings(remarks), PillowWarnings(None):
        for name in ("a.jpg", "b.jpg", "good.jpg"):
            decode_image((photos / name).read_bytes())
    assert remarks == [REMARK]


def test_the_limit_of_pixels(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("faiss")
    index = str(tmp_path / "it.index")
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "1")  # an option overrides it, in its command
    limit = ["--device", "cpu", "--max-pixels", "1600"]
    assert main(["index", str(photos), "-o", index, *limit]) == 1
    assert "large.png: cannot be read as an image: 9600 x 9600" in capsys.readouterr().err
    assert main(["search", index, "--image", str(photos / "large.png"), *limit]) == 2
    assert "the limit is 1600, raise it with --max-pixels" in capsys.readouterr().err
    limit[-1] = "100000000"
    assert main(["search", index, "--image", str(photos / "large.png"), *limit]) == 0
    for wrong in ("0", "-1", "many"):
        with pytest.raises(SystemExit):
            main(["search", index, "x", "--max-pixels", wrong])
        assert "--max-pixels: expected a number from 1" in capsys.readouterr().err
