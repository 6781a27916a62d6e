"""The demo: its data, images, matches, contact sheet and command."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnclip import demo
from cnclip.assets import asset_path
from cnclip.cli import main
from cnclip.demo import contact_sheet

GALLERY = asset_path("gallery")
COMMANDS = {
    "module": [sys.executable, "-m", "cnclip.demo"],
    "command": [sys.executable, "-m", "cnclip", "demo"],
}


def run(
    command: list[str], *arguments: str, cwd: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=300,
    )


def run_here(
    capsys: pytest.CaptureFixture[str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run the command in this process."""
    capsys.readouterr()
    status = main(["demo", *arguments])
    printed = capsys.readouterr()
    return subprocess.CompletedProcess(arguments, status, printed.out, printed.err)


def rows_below(title: str, output: str) -> dict[str, str]:
    """Rows of the table that follows the line that begins with `title`, by their first word."""
    table = output[output.index(title) :].split("\n\n")[1].splitlines()
    assert re.fullmatch(r"[- ]+", table[1])
    return {row.split()[0]: row for row in table[2:]}


def labels_of(row: str) -> list[str]:
    return re.findall(r"-?\d\.\d{3} (\S+)", row)


@pytest.fixture
def gallery() -> list[demo.GalleryImage]:
    return demo.load_gallery()


# The data


def test_gallery_lists_every_image_once(gallery: list[demo.GalleryImage]) -> None:
    assert len(gallery) == 362
    assert {image.path for image in gallery} == set(GALLERY.glob("*.png"))
    assert len({image.label for image in gallery}) == len(gallery)
    assert len({image.emoji for image in gallery}) == len(gallery)
    assert all(image.label for image in gallery)


def test_gallery_images_open_and_are_not_blank(gallery: list[demo.GalleryImage]) -> None:
    for image in gallery:
        with Image.open(image.path) as opened:
            assert (opened.format, opened.mode, opened.size) == ("PNG", "RGB", (96, 96))
            assert opened.getextrema() != ((255, 255),) * 3, image.path.name


def test_gallery_files_are_named_after_the_emoji() -> None:
    for line in (GALLERY / "gallery.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        assert set(row) == {"file", "label", "tags", "emoji"}
        points = [f"{ord(c):04x}" for c in row["emoji"] if c != "\ufe0f"]
        assert row["file"] == "-".join(points) + ".png"
        assert all(isinstance(tag, str) for tag in row["tags"])


def test_data_stays_small_and_carries_its_licences() -> None:
    def size(name: str) -> int:
        return sum(file.stat().st_size for file in asset_path(name).iterdir())

    assert size("gallery") < 2_000_000
    assert size("fonts") < 700_000
    assert "Apache License" in (GALLERY / "LICENSE").read_text(encoding="utf-8")
    assert "emojibase" in (GALLERY / "NOTICE.md").read_text(encoding="utf-8")
    licence = (asset_path("fonts") / "OFL.txt").read_text(encoding="utf-8")
    assert "SIL OPEN FONT LICENSE" in licence
    card = (asset_path("emoji-cn") / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "EmojiOne" in card and "CC BY 4.0" in card


def test_font_draws_every_label_query_and_word_of_the_model(
    gallery: list[demo.GalleryImage],
) -> None:
    font = contact_sheet.load_font(24)
    lacking = bytes(font.getmask("\U0010fffe"))
    vocabulary = (asset_path("emoji-cn") / "vocab.txt").read_text(encoding="utf-8")
    text = "".join([image.label for image in gallery] + list(demo.QUERIES))
    text += "".join(demo.EXAMPLE_TEXTS) + contact_sheet.TITLE + "".join(vocabulary.split())
    assert lacking
    assert [c for c in sorted(set(text)) if bytes(font.getmask(c)) == lacking] == []


# Images and matches


def test_transparent_images_stand_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "rgba.png")
    Image.new("LA", (4, 4), (0, 0)).save(tmp_path / "la.png")
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.save(tmp_path / "palette.png", transparency=1)
    for name in ("rgba", "la", "palette"):
        image = demo.open_image(tmp_path / f"{name}.png")
        assert (image.mode, image.getpixel((2, 2))) == ("RGB", (255, 255, 255)), name


def test_images_of_16_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257 * 100], [257 * 200, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "gray.png")
    image = demo.open_image(tmp_path / "gray.png")
    assert np.asarray(image)[..., 0].tolist() == [[0, 100], [200, 255]]


def test_images_are_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    assert demo.open_image(tmp_path / "turned.jpg").size == (4, 8)


def test_folder_is_searched_below_without_hidden_files_and_the_sheet(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "sub/c.webp", ".hidden.png", ".d/e.png", "note.txt", "out.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    found = demo.find_images(tmp_path, [tmp_path / "out.png"])
    assert [image.label for image in found] == ["a", "b", str(Path("sub", "c"))]
    with pytest.raises(NotADirectoryError, match="nowhere"):
        demo.find_images(tmp_path / "nowhere")


def test_matches_are_the_best_in_order_and_ties_keep_theirs() -> None:
    images = [demo.GalleryImage(Path(name), name) for name in "abcd"]
    vectors = np.array([[0.5, 0], [0.9, 0], [0.5, 0], [-1, 0]], np.float32)
    texts = np.array([[1, 0], [-1, 0]], np.float32)
    first, second = demo.find_matches(texts, images, vectors, 3)
    assert [match.image.label for match in first] == ["b", "a", "c"]
    assert [match.image.label for match in second] == ["d", "a", "c"]
    assert first[0].score == pytest.approx(0.9)
    assert len(demo.find_matches(texts, images, vectors, 9)[0]) == 4


# The sheet


def test_sheet_has_its_size_and_is_not_blank(gallery: list[demo.GalleryImage]) -> None:
    answers = [[demo.Match(image, 0.5) for image in gallery[:3]], []]
    sheet = contact_sheet.draw_contact_sheet(["猫", "狗"], answers, "3 images")
    assert sheet.size == contact_sheet.sheet_size(answers)
    assert sheet.mode == "RGB"
    pixels = np.asarray(sheet)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
    left = contact_sheet.MARGIN + contact_sheet.QUERY_COLUMN
    left += (contact_sheet.CARD - contact_sheet.IMAGE) // 2
    top = contact_sheet.HEADER + (contact_sheet.CARD - contact_sheet.IMAGE) // 2
    drawn = pixels[top : top + contact_sheet.IMAGE, left : left + contact_sheet.IMAGE]
    np.testing.assert_array_equal(drawn, np.asarray(demo.open_image(gallery[0].path)))


@pytest.mark.parametrize("size", [(3000, 1), (1, 3000), (1, 1), (500, 375)])
def test_sheet_takes_images_of_any_shape_and_texts_of_any_length(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    path = tmp_path / "image.png"
    Image.new("RGB", size, "red").save(path)
    answers = [[demo.Match(demo.GalleryImage(path, "很长的名字" * 9), -0.25)]]
    sheet = contact_sheet.draw_contact_sheet(["一句很长的话\n" * 20 + "\ud800"], answers, "😀")
    pixels = np.asarray(sheet).reshape(-1, 3)
    assert (pixels == (255, 0, 0)).all(axis=1).any()


def test_sheet_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="expected an answer"):
        contact_sheet.draw_contact_sheet(["猫"], [[]], "")
    with pytest.raises(ValueError, match="expected an answer"):
        contact_sheet.draw_contact_sheet(["猫", "狗"], [[]], "")


# The command, on the model that ships


@pytest.mark.parametrize("name", COMMANDS)
def test_demo_finds_what_its_queries_name(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "module":
        done = run(COMMANDS[name], "-o", "sheet.png", cwd=tmp_path)
    else:
        done = run_here(capsys, "-o", "sheet.png")
    assert done.returncode == 0, done.stderr
    example = rows_below("How likely", done.stdout)
    assert len(example) == len(demo.EXAMPLE_TEXTS)
    for number, row in enumerate(example.values()):
        shares = [float(share) for share in re.findall(r"([\d.]+)%", row)]
        assert sum(shares) == pytest.approx(100, abs=0.3)
        assert np.argmax(shares) == number
    found = {text: labels_of(row) for text, row in rows_below("The best", done.stdout).items()}
    assert list(found) == list(demo.QUERIES)
    assert all(len(labels) == 5 for labels in found.values())
    assert {"猫", "猫脸"} <= set(found["猫"])
    assert found["猫"][0] == "猫"
    assert found["汽车"][0] == "汽车" and {"警车", "消防车"} <= set(found["汽车"])
    assert set(found["昆虫"]) == {"蝴蝶", "蜜蜂", "瓢虫", "蜘蛛", "蚂蚁"}
    assert found["生日蛋糕"][0] == "生日蛋糕"
    assert {"草莓", "桃", "橘子"} <= set(found["水果"])
    assert {"松树", "棕榈树", "落叶树"} <= set(found["树"])
    assert found["下雨"][0] == "下雨"
    assert found["大哭"][0] == "放声大哭"
    with Image.open(tmp_path / "sheet.png") as sheet:
        rows, columns = len(demo.QUERIES), 8
        some = [[demo.Match(demo.GalleryImage(Path(), ""), 0.0)] * columns] * rows
        assert (sheet.format, sheet.size) == ("PNG", contact_sheet.sheet_size(some))
        assert len(sheet.getcolors(1 << 24) or []) > 1000
    assert "sheet.png" in done.stdout


def test_installed_command_is_the_same(tmp_path: Path) -> None:
    command = shutil.which("cnclip", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("the package is not installed with its command")
    done = run([command, "demo"], "狗", "-k", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(labels_of(rows_below("The best", done.stdout)["狗"])) == {"狗", "狗脸"}
    assert (tmp_path / "cnclip-demo.png").exists()


def test_own_folder_names_what_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine"
    folder.mkdir()
    for file in ("1f408.png", "1f692.png", "1f332.png"):
        shutil.copy(GALLERY / file, folder)
    (folder / "empty.png").touch()
    whole = (GALLERY / "1f600.png").read_bytes()
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("no image", encoding="utf-8")
    claims_much = struct.pack(">4sIIBBBBB", b"IHDR", 60000, 60000, 8, 2, 0, 0, 0)
    (folder / "bomb.png").write_bytes(whole[:12] + claims_much + whole[29:])
    done = run_here(capsys, "--images", "mine", "-o", "o.png", "猫", "红色的车")
    assert done.returncode == 1
    for bad in ("empty.png", "half.png", "text.jpg", "bomb.png"):
        assert f"cnclip demo: {Path('mine', bad)}: " in done.stderr
    assert "Traceback" not in done.stderr
    rows = rows_below("The best of 3 images", done.stdout)
    assert labels_of(rows["猫"])[0] == "1f408"
    assert labels_of(rows["红色的车"])[0] == "1f692"
    assert "How likely" not in done.stdout
    assert (tmp_path / "o.png").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["-k", "0"], "-k"),
        (["-k", "many"], "-k"),
        (["--images", "nowhere"], "nowhere"),
        (["--images", "empty"], "empty"),
        (["--images", "bad"], "bad"),
        (["-o", "nowhere/sheet.png"], "nowhere"),
        (["-o", "empty"], "empty"),
        (["--model", "nowhere"], "nowhere"),
        ([" "], "TEXT"),
    ],
)
def test_bad_usage_is_named_and_does_nothing(
    arguments: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "bad.png").touch()
    try:
        status = main(["demo", *arguments])
    except SystemExit as stopped:  # argparse's own
        status = int(stopped.code or 0)
    printed = capsys.readouterr()
    assert status == 2
    assert named in printed.err.splitlines()[-1]
    assert printed.out == ""
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""},
    ],
)
def test_terminal_without_chinese_does_not_end_the_demo(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    done = run(COMMANDS["command"], "-o", "o.png", cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert "0.6" in done.stdout
    assert (tmp_path / "o.png").exists()
    assert run(COMMANDS["command"], "--help", cwd=tmp_path, **environment).returncode == 0


def test_texts_that_the_model_does_not_know_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "猫", "🐶", "猫" * 60, "--device", "cpu"]) == 0
    printed = capsys.readouterr().err
    assert "1 of 3 texts is longer than 52 ids" in printed
    assert "1 of 3 texts is of characters that the model does not know" in printed
    assert main(["demo", "\u200b"]) == 2
