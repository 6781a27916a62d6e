"""Names of files as other systems write them: in lists, tables and archives."""

from __future__ import annotations

import json
import os
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from cnclip.bulk import open_recorded
from cnclip.bulk.items import open_sources
from cnclip.datasets import Problems, open_pairs
from cnclip.datasets.classification import ClassificationData
from cnclip.errors import DatasetError
from cnclip.sources.names import find_name, find_path
from tests.support.layouts import IMAGES, add, png

CAFE = "café が"  # other characters in NFC and NFD


def ids_of(path: Path, **options: Any) -> list[str]:
    return [item.id.removeprefix(f"{path}:") for item in open_sources(path, **options).items()]


def write_zip(path: Path, names: list[bytes]) -> Path:
    """A zip with images. Their names are bytes without the flag of UTF-8."""
    stand_ins = [bytes([65 + number]) * len(name) for number, name in enumerate(names)]
    with zipfile.ZipFile(path, "w") as archive:
        for number, stand_in in enumerate(stand_ins):
            archive.writestr(stand_in.decode(), png(number))
    content = path.read_bytes()
    for stand_in, name in zip(stand_ins, names, strict=True):
        assert content.count(stand_in) == 2
        content = content.replace(stand_in, name)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("encoding", ["gbk", "gb18030", "utf-8"])
def test_names_in_zips_without_the_flag_of_utf8(encoding: str, tmp_path: Path) -> None:
    names = ["红猫.png", "图/狗.png", "cat.png"]
    path = write_zip(tmp_path / "a.zip", [name.encode(encoding) for name in names])
    assert ids_of(path) == names
    for number, name in enumerate(names):
        assert open_recorded(f"{path}:{name}", str(path)).getpixel((0, 0))[0] == number
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("有标志.png", png(9))
        archive.writestr("plain.png", png(9))
    assert ids_of(path) == ["有标志.png", "plain.png"]


def test_names_in_zips_in_other_encodings(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", ["猫ソ.png".encode("cp932"), b"a.png"])
    assert ids_of(path, encoding="cp932") == ["猫ソ.png", "a.png"]
    assert open_recorded(f"{path}:猫ソ.png", str(path)).size == (4, 4)
    path = write_zip(tmp_path / "b.zip", [b"\x81\xff.png"])  # neither UTF-8 nor GB18030
    assert ids_of(path) == [b"\x81\xff.png".decode("cp437")]


def test_names_that_info_zip_repeats_in_utf8(tmp_path: Path) -> None:
    raw = b"??.png"
    field = struct.pack("<BL", 1, zlib.crc32(raw)) + "貓.png".encode()
    member = zipfile.ZipInfo(raw.decode())
    wrong = field[:5] + b"wrong.png"
    first = struct.pack("<HH", 0x6375, len(wrong)) + wrong  # of another kind, such as a comment
    member.extra = first + struct.pack("<HH", 0x7075, len(field)) + field
    other = zipfile.ZipInfo("b.png")  # of another name: not used
    other.extra = member.extra
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(member, png(0))
        archive.writestr(other, png(1))
    assert ids_of(tmp_path / "a.zip") == ["貓.png", "b.png"]


def test_backslashes_in_archives(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", [b"d\\a.png", b"__MACOSX\\d\\._a.png", b"d\\.b.png"])
    assert ids_of(path) == ["d/a.png"]
    assert open_recorded(f"{path}:d/a.png", str(path)).size == (4, 4)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "d\\a.png", IMAGES[100])
        add(tar, "d/a.txt", b"a text")
    assert ids_of(tmp_path / "a.tar") == ["d/a"]
    assert open_pairs(tmp_path / "a.tar", problems=Problems()).texts == ["a text"]


@pytest.mark.parametrize("encoding", ["gbk", "utf-8", "big5"])
@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz"])
def test_names_in_tar_files(encoding: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.tar{suffix}"
    mode: Any = f"w:{suffix[1:]}"
    with tarfile.open(path, mode, encoding=encoding, format=tarfile.GNU_FORMAT) as tar:
        add(tar, "紅毛/紅貓.png", IMAGES[100])
        add(tar, "紅毛/紅貓.txt", "紅貓".encode(encoding))
        add(tar, "紅毛/.hidden.png", b"")
    options = {"encoding": "big5"} if encoding == "big5" else {}
    (item,) = open_sources(path, **options).items()
    assert item.id == f"{path}:紅毛/紅貓" and item.image is not None
    assert item.image.read() == IMAGES[100]
    if not suffix:
        assert open_pairs(path, problems=Problems(), **options).image_ids == ["紅毛/紅貓"]
        assert open_recorded(item.id, str(path)).size == (4, 4)


def test_dots_in_names_of_members(tmp_path: Path) -> None:
    names = ["IMG.1.jpg", "IMG.2.jpg", "2024.05.01 12.00.png", "a.b/c.d.JPG", "plain.jpg"]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in names:
            add(tar, name, IMAGES[100])
        for name in names[:4]:
            add(tar, name.rpartition(".")[0] + ".txt", name.encode())
    assert ids_of(tmp_path / "a.tar") == [name.rpartition(".")[0] for name in names]
    data = open_pairs(tmp_path / "a.tar", problems=Problems())
    assert data.texts == names[:4]


def test_blanks_and_dots_at_the_end_of_names(tmp_path: Path) -> None:
    names = ["a.jpg ", "b.jpg.", "c.png . ", "猫.JPG "]
    (tmp_path / "folder").mkdir()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zip:
        for name in [*names, "d.txt "]:
            (tmp_path / "folder" / name).write_bytes(IMAGES[100])
            zip.writestr(name, IMAGES[100])
    assert ids_of(tmp_path / "folder") == names
    assert ids_of(tmp_path / "a.zip") == names


def test_a_compressed_tar_file_that_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for number in range(50):
            add(tar, f"{number}.png", os.urandom(1000))
    path.write_bytes(path.read_bytes()[:-20_000])
    items = list(open_sources(path).items())
    assert 20 < len(items) < 51
    assert items[-1].error is not None and items[-1].error.startswith("damaged: ")
    (tmp_path / "b.tgz").write_bytes(b"no gzip")
    (item,) = open_sources(tmp_path / "b.tgz").items()
    assert item.error is not None


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_that_differ_in_composition(form: Any, tmp_path: Path) -> None:
    other: Any = "NFD" if form == "NFC" else "NFC"
    name = f"{unicodedata.normalize(form, CAFE)}/{unicodedata.normalize(other, CAFE)}.png"
    listed = unicodedata.normalize(form, f"{CAFE}/{CAFE}.png")
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_bytes(IMAGES[100])
    (tmp_path / "a.txt").write_text(listed, encoding="utf-8")
    (item,) = open_sources(tmp_path / "a.txt").items()
    assert (item.path, item.error) == (str(tmp_path / name), None)
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": listed, "text": "字"}))
    data = open_pairs(tmp_path, problems=Problems())
    assert data.read(0) == tmp_path / name
    (tmp_path / "classes.txt").write_text(f"{listed}\t0", encoding="utf-8")
    (image,) = ClassificationData(tmp_path / "classes.txt").images(["字"], Problems())
    assert image.row.image.read() == IMAGES[100]
    (item,) = open_sources(tmp_path / listed).items()
    assert item.error is None


def test_backslashes_in_lists(tmp_path: Path) -> None:
    (tmp_path / "图片" / "b").mkdir(parents=True)
    (tmp_path / "图片" / "b" / "1.png").write_bytes(IMAGES[100])
    (tmp_path / "c\\1.png").write_bytes(IMAGES[101])  # a name with a backslash
    names = ["图片\\b\\1.png", ".\\图片\\b/1.png", "c\\1.png", "图片\\b\\2.png"]
    found = [str(tmp_path / "图片/b/1.png")] * 2 + [str(tmp_path / "c\\1.png")]
    (tmp_path / "a.csv").write_text("image,text\n" + "".join(f"{n},字\n" for n in names))
    items = list(open_sources(tmp_path / "a.csv").items())
    assert [item.path for item in items if item.error is None] == [found[0], found[2]]
    assert [item.error for item in items if item.error] == ["no such file"]
    data = open_pairs(tmp_path / "a.csv", problems=Problems())
    assert [str(data.read(number)) for number in range(3)] == found
    (tmp_path / "b.csv").write_text("image,text\n..\\x.png,字\n图片\\b\\1.png,字\n")
    problems = Problems()
    assert open_pairs(tmp_path / "b.csv", problems=problems).image_ids == ["图片\\b\\1.png"]
    assert "is outside the data set's folder" in problems.found[0].reason


def test_names_on_the_disk_in_gb18030(tmp_path: Path) -> None:
    raw = os.path.join(os.fsencode(tmp_path), "红猫.png".encode("gbk"))
    try:
        with open(raw, "wb") as file:
            file.write(IMAGES[100])
    except OSError:
        pytest.skip("the file system takes names in UTF-8 only")
    for encoding in ("gbk", "utf-8"):
        (tmp_path / "a.txt").write_bytes("红猫.png".encode(encoding) + b"\n")
        (item,) = open_sources(tmp_path / "a.txt").items()
        assert item.error is None and item.image is not None
        assert item.image.read() == IMAGES[100]


def test_lists_that_end_entries_in_nul_bytes(tmp_path: Path) -> None:
    names = ["a\nb.png", "红 猫.png", "c.png", "x" * 200 + ".png"]
    for name in names:
        (tmp_path / name).write_bytes(IMAGES[100])
    for encoding in ("utf-8", "gbk"):
        for end in ("", "\0", "\0\0"):
            (tmp_path / "list.txt").write_bytes(("\0".join(names) + end).encode(encoding))
            items = list(open_sources(tmp_path / "list.txt", null=True).items())
            assert [(item.path, item.error) for item in items] == [
                (str(tmp_path / name), None) for name in names
            ]
    (tmp_path / "list.txt").write_bytes("红\n猫\0狗".encode())
    items = list(open_sources(tmp_path / "list.txt", "texts", null=True).items())
    assert [item.text for item in items] == ["红\n猫", "狗"]


def test_a_list_that_ends_entries_in_nul_bytes_may_have_any_name(tmp_path: Path) -> None:
    (tmp_path / "a b.png").write_bytes(IMAGES[100])
    (tmp_path / "image").write_bytes(IMAGES[100])
    for name in ("found", "found.0", "found.lst"):
        (tmp_path / name).write_bytes(b"a b.png\0image\0")
        items = list(open_sources(tmp_path / name, null=True).items())
        assert [item.path for item in items] == [str(tmp_path / "a b.png"), str(tmp_path / "image")]
        texts = open_sources(tmp_path / name, "texts", null=True).items()
        assert [item.text for item in texts] == ["a b.png", "image"]
        with pytest.raises(DatasetError, match="unknown kind of file"):
            open_sources(tmp_path / name)
    # An image without a suffix is still one.
    items = list(open_sources(tmp_path / "image", null=True).items())
    assert [item.path for item in items] == [str(tmp_path / "image")]


def test_members_are_found_by_other_spellings(tmp_path: Path) -> None:
    names = {unicodedata.normalize("NFD", "d/é.png"): 1, "b\\c": 2}
    assert find_name(names, "d\\é.png") == 1
    assert find_name(names, "b/c") == 2
    assert find_name(names, "d") is None
    assert find_path(str(tmp_path / "none")) is None
    assert find_path(str(tmp_path / "猫\udcff")) is None  # neither UTF-8 nor characters of GB18030
    assert find_path(f"{tmp_path}/./") == str(tmp_path)
