"""Damaged rows, files and archives of data sets."""

from __future__ import annotations

import base64
import pickle
import re
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from cnclip.datasets import Problems, open_pairs, open_retrieval
from cnclip.errors import DatasetError, ImageError
from cnclip.sources import parquet_files
from tests.support.layouts import (
    IMAGES,
    PAIRS,
    add,
    broken,
    content_of,
    make_folder,
    make_lmdb,
    make_parquet,
    make_tars,
    make_tsv,
    make_zip,
    opened,
    pairs_of,
    stripped,
    write_images,
    write_parquet,
    write_table,
    write_tar,
)


def test_broken_tsv(tmp_path: Path) -> None:
    make_tsv(tmp_path)
    with (tmp_path / "train_imgs.tsv").open("ab") as file:
        file.write(b"106\t*no base64*\n107\tA===\n108 AAAA\n100\tAAAA\n\tAAAA\n109\tAAA\r\n")
        file.write("\u3000\tAAAA\n".encode())  # an id of blanks
        file.write(b"110\t" + base64.b64encode(IMAGES[100]) + b"\r\n")
    with (tmp_path / "train_texts.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"text_id": 50, "text": " ", "image_ids": [100]}\n')
        file.write('{"text_id": 51, "text": "x", "image_ids": [106, 107]}\n')
        file.write('{"text_id": 52, "text": "y", "image_ids": [106, 110, 100]}\n')
        file.write('{"text_id": 53, "text": "z", \n')
        file.write('{"text_id": 54, "text": "kept back", "image_ids": []}\n')
    data, problems = broken(tmp_path)
    assert pairs_of(data) == [*PAIRS, (IMAGES[100], "y"), (IMAGES[100], "y")]
    assert data.texts[-2:] == ["y", "kept back"]
    assert data.image_ids == [100, 101, 102, 103, 104, 105, 110]
    assert str(data.where(6)) == "train_imgs.tsv:14"
    named = " ".join(problems)
    for line in (7, 8, 9, 10, 11, 12, 13):
        assert f"train_imgs.tsv:{line}: " in named
    assert "train_imgs.tsv:13: the image has no id" in named
    for line in (7, 8, 9, 10):
        assert f"train_texts.jsonl:{line}: " in named
    reason = "text 52 names images that do not exist or cannot be read: 106 (used"
    assert f"train_texts.jsonl:9: {reason}" in named
    with pytest.raises(DatasetError, match="train_imgs.tsv:7: image 106: not base64"):
        open_pairs(tmp_path, problems=Problems(strict=True))


def test_odd_ids_of_images(tmp_path: Path) -> None:
    make_tsv(tmp_path)
    with (tmp_path / "train_texts.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"text_id": 50, "text": "x", "image_ids": [100, null]}\n')
        file.write('{"text_id": 51, "text": "y", "image_ids": [100, "100"]}\n')
    data, problems = broken(tmp_path)
    assert pairs_of(data) == [*PAIRS, (IMAGES[100], "y")]
    first, second = problems
    assert "image_ids: expected integers or names, found nothing" in first
    assert "image_ids: names an image twice (used nonetheless)" in second


def test_two_files_of_one_split_in_a_zip(tmp_path: Path) -> None:
    make_tsv(tmp_path)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for folder in ("a", "b"):
            for name in ("train_imgs.tsv", "train_texts.jsonl"):
                archive.write(tmp_path / name, f"{folder}/{name}")
    with pytest.raises(DatasetError, match=r"has a/train_\S+ and b/train_"):
        opened(tmp_path / "a.zip")


def test_half_a_split(tmp_path: Path) -> None:
    make_tsv(tmp_path)
    for name in ("train_imgs.tsv", "train_texts.jsonl"):
        with pytest.raises(DatasetError, match="one of a split's two files"):
            opened(tmp_path / name)


def test_a_file_that_was_cut_after_it_was_opened(tmp_path: Path) -> None:
    data = opened(make_tsv(tmp_path))
    path = tmp_path / "train_imgs.tsv"
    path.write_bytes(path.read_bytes()[:-20])
    assert content_of(data, 4) == IMAGES[104]
    with pytest.raises(ImageError, match=r"train_imgs.tsv:6: image 105: .* ends in the middle"):
        data.read(5)
    path.write_bytes(b"?" * 10_000)
    with pytest.raises(ImageError, match=r"train_imgs.tsv:1: image 100: its line has changed"):
        data.read(0)
    path.unlink()
    with pytest.raises(
        ImageError, match=r"train_imgs.tsv:1: image 100: .* cannot be read: No such"
    ):
        data.read(0)


def test_zips(tmp_path: Path) -> None:
    place = make_zip(tmp_path, method=zipfile.ZIP_DEFLATED)
    with pytest.raises(DatasetError, match=r"train_imgs.tsv is compressed .* unpack the zip"):
        opened(place)
    assert len(list(open_retrieval(place).images(Problems()))) == 6


def test_broken_lmdb(tmp_path: Path) -> None:
    place = make_lmdb(tmp_path)
    import lmdb

    for name, values in {
        "imgs": {b"103": b"*no base64*", b"1040": b"AAAA", b" ": b"AAAA", b" 0106 ": b"AAAA"},
        "pairs": {b"0": pickle.dumps((1, 2)), b"7": pickle.dumps((999, 7, "none"))},
    }.items():
        path = str(place / "lmdb" / "train" / name)
        with lmdb.open(path, map_size=1 << 24) as env, env.begin(write=True) as put:
            for key, value in values.items():
                put.put(key, value)
    data, problems = broken(place)
    left = [(content, text) for content, text in PAIRS[1:] if content != IMAGES[103]]
    good = [(p, t) for p, t in data.pairs.tolist() if data.image_ids[p] != 103]
    assert [(content_of(data, p), data.texts[t]) for p, t in good] == left
    assert [problem.partition(": ")[0] for problem in problems] == [
        "train/imgs",
        "train/pairs:0",
        "train/pairs",
    ]
    bad = list(data.image_ids).index(103)
    with pytest.raises(ImageError, match=r"train/imgs:103: image 103: not base64"):
        data.read(bad)
    assert content_of(data, list(data.image_ids).index("0106")) == b"\0\0\0"
    place = place / "lmdb" / "train" / "imgs"
    number = list(data.image_ids).index(102)
    copied, gone = (pickle.loads(pickle.dumps(data)) for _ in range(2))
    del data
    with lmdb.open(str(place), map_size=1 << 24) as env, env.begin(write=True) as put:
        put.delete(b"102")
    with pytest.raises(ImageError, match=r"image 102: .* no longer has the key b'102'"):
        copied.read(number)
    del copied
    shutil.rmtree(place)
    with pytest.raises(ImageError, match=r"not an LMDB, or damaged"):
        gone.read(0)


def test_texts_of_pairs_that_differ(tmp_path: Path) -> None:
    place = make_lmdb(tmp_path)
    import lmdb

    more = {b"70": (100, 1, "其他"), b"71": (100, 71, " "), b"72": (100, 72, "好")}
    path = str(place / "lmdb" / "train" / "pairs")
    with lmdb.open(path, map_size=1 << 24) as env, env.begin(write=True) as put:
        for key, pair in more.items():
            put.put(key, pickle.dumps(pair))
    data, problems = broken(place)
    assert data.texts[-1] == "好" and "其他" not in data.texts
    assert [problem.partition(": ")[::2] for problem in problems] == [
        ("train/pairs:70", "text 1 has other words in another pair"),
        ("train/pairs:71", "text 71 is empty"),
    ]


def test_broken_folder(tmp_path: Path) -> None:
    make_folder(tmp_path)
    with (tmp_path / "train" / "metadata.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"file_name": "imgs/none.png", "text": "none"}\n')
        file.write('{"file_name": "imgs/105.png", "text": ["", 5, "good"]}\n')
        file.write('{"file_name": "../100.png", "text": "out"}\n')
        file.write('{"file_name": 5, "text": "five"}\n')
    data, problems = broken(tmp_path)
    assert pairs_of(data) == [*PAIRS, (IMAGES[105], "good")]
    # Tables name the column as they like.
    assert any("column of images: expected a file's name, found 5" in one for one in problems)
    assert {problem.partition(": ")[0] for problem in problems} == {
        f"metadata.jsonl:{line}" for line in (7, 8, 9, 10)
    }


def test_broken_csv(tmp_path: Path) -> None:
    path = write_table(write_images(tmp_path) / "a.csv", ("图片", "文本"))
    good = path.read_bytes()
    with path.open("ab") as file:
        file.write(b'9,imgs/100.png,"a"b\r\n9,imgs/100.png\r\n9,imgs/100.png,\xff\r\n')
        file.write(b"9,imgs/none.png,a\r\n9,/imgs/100.png,a\r\n9,,a\r\n9,imgs/100.png,\r\n\r\n")
        file.write(b'9,imgs/105.png,good\r\n9,imgs/100.png,"open\r\n')
    data, problems = broken(path)
    assert pairs_of(data) == [*PAIRS, (IMAGES[105], "good")]
    lines = {int(problem.split(":")[1]) for problem in problems}
    assert lines == {9, 10, 11, 12, 13, 14, 15, 18}
    for content, message in (
        (good.split(b"\n", 1)[1], r"a.csv:1: no column of images"),
        (b"file_name,words\n", r"a.csv:1: no column of texts"),
        (b"", r"no image with a text that can be used"),
    ):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=message) as caught:
            broken(path)
        str(caught.value).encode()
    path.write_bytes(good.decode().encode("gbk"))
    data, problems = broken(path)
    assert pairs_of(data) == PAIRS
    assert problems == [
        "a.csv: not UTF-8; read as GB18030; --encoding names another (used nonetheless)"
    ]


def test_broken_tars(tmp_path: Path) -> None:
    make_tars(tmp_path)
    with tarfile.open(tmp_path / "train-002.tar", "w") as tar:
        add(tar, "a/1.jpg", IMAGES[100])
        add(tar, "b/1.png", IMAGES[101])
        add(tar, "a/1.txt", "分开".encode())  # not side by side
        add(tar, "b/1.txt", b"\xff")
        add(tar, "2.txt", b"no image")
        add(tar, "3.jpg", IMAGES[102])
        add(tar, "3.gif", IMAGES[103])
        add(tar, "3.json", b'{"text": ["", "three"]}')
        add(tar, "4.jpg", IMAGES[103])
        add(tar, "4.json", b"{")
        add(tar, "5.jpg", IMAGES[104])
        add(tar, "5.json", b"[]")
        add(tar, "6.jpg", IMAGES[104])
        add(tar, "7.depth.png", b"a map")
        add(tar, "7.jpg", IMAGES[105])
        add(tar, "7.txt", b"seven")
        add(tar, "8.v2.jpg", IMAGES[105])
        add(tar, ".hidden.jpg", b"")
        add(tar, "9.txt", b"x" * (1 << 21))
        add(tar, "10.jpg", IMAGES[100])
        add(tar, "10.txt", b"ten")
        add(tar, "10.txt", b"ten more")
    data, problems = broken(tmp_path)
    more = [(IMAGES[100], "分开"), (IMAGES[102], "three"), (IMAGES[105], "seven")]
    more.append((IMAGES[100], "ten"))
    assert stripped(pairs_of(data)) == [*stripped(PAIRS), *more]
    assert len(data.image_ids) == 6 + 9
    assert sorted(p.partition(": ")[0] for p in problems) == [
        "train-002.tar:10.txt",
        "train-002.tar:2",
        "train-002.tar:3",
        "train-002.tar:3.gif",
        "train-002.tar:4",
        "train-002.tar:5",
        "train-002.tar:6",
        "train-002.tar:8.v2",
        "train-002.tar:9",
        "train-002.tar:9.txt",
        "train-002.tar:b/1",
    ]


def test_cut_tars(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", (100, 101, 102), format=tarfile.USTAR_FORMAT)
    content = whole.read_bytes()
    with tarfile.open(whole) as tar:
        last = next(m for m in tar.getmembers() if m.name.endswith("102.PNG"))
    for end, images in (
        (last.offset_data + 5, 3),  # in an image
        (last.offset + 100, 2),  # in a header
        (last.offset, 2),  # between members
    ):
        path = tmp_path / "cut.tar"
        path.write_bytes(content[:end])
        data, problems = broken(path)
        assert len(data.image_ids) == images
        assert stripped(pairs_of(data)) == stripped(PAIRS[:3])
        assert len(problems) == (0 if end == last.offset else images - 1)
        if images == 3:
            with pytest.raises(ImageError, match=r"cut.tar:长名字/102: image .* ends in the mid"):
                data.read(2)
    with tarfile.open(whole) as tar:
        text = tar.getmember("长名字/101.json")
    path.write_bytes(content[: text.offset_data + 5])
    data, problems = broken(path)
    assert pairs_of(data) == PAIRS[:1]
    assert problems[0] == "cut.tar:长名字/101.json: the file ends in the middle of it"
    damaged = bytearray(content)
    damaged[last.offset : last.offset + 512] = b"?" * 512
    path.write_bytes(damaged)
    data, problems = broken(path)
    assert stripped(pairs_of(data)) == stripped(PAIRS[:3])
    assert problems == [f"cut.tar: damaged at byte {last.offset}; the rest of the file was skipped"]


def test_no_tars(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "a" / "whole.tar", (100, 101))
    (tmp_path / "a" / "text.tar").write_bytes(b"no tar" * 100)
    (tmp_path / "a" / "empty.tar").touch()
    data, problems = broken(tmp_path / "a")
    assert len(data.image_ids) == 2
    assert len(problems) == 2
    import gzip

    for name in ("b.tar.gz", "b.tar", "b.tgz"):
        path = tmp_path / "b" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(whole.read_bytes()))
        for place in (path, path.parent):
            with pytest.raises(DatasetError, match=r"compressed, .* unpack it"):
                broken(place)
        path.unlink()


def test_broken_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    place = make_parquet(tmp_path) / "data"
    (place / "train-00002-of-00002.parquet").write_bytes(b"PAR1 no parquet")
    images = [IMAGES[100], None, b"", IMAGES[101]]
    columns = {"图片": images, "text": ["甲", "乙", None, " "]}
    parquet.write_table(pa.table(columns), place / "train-00003-of-00002.parquet", row_group_size=4)
    data, problems = broken(tmp_path)
    assert len(data.image_ids) == 10
    good = [pair for pair in data.pairs.tolist() if pair[0] != 7]
    assert stripped((content_of(data, p), data.texts[t]) for p, t in good) == [
        *stripped(PAIRS),
        (IMAGES[100], "甲"),
    ]
    assert [problem.partition(": ")[0] for problem in problems] == [
        "train-00002-of-00002.parquet",
        "train-00003-of-00002.parquet:3",
        "train-00003-of-00002.parquet:4",
    ]
    with pytest.raises(ImageError, match=r"train-00003.*:2: image 7: the row has no image"):
        data.read(7)
    assert data.groups is not None
    assert data.groups.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 3, 3]


def test_a_damaged_row_group(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow.parquet")
    path = write_parquet(tmp_path / "a.parquet", tuple(IMAGES), "bytes")
    content = path.read_bytes()
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        group = file.metadata.row_group(1)
        part = next(
            group.column(i)
            for i in range(group.num_columns)
            if group.column(i).path_in_schema == "image"
        )
        start = part.dictionary_page_offset or part.data_page_offset
        size = part.total_compressed_size
    path.write_bytes(content[:start] + b"\xff" * size + content[start + size :])
    data, problems = broken(path)
    assert problems == []
    for image in (0, 1, 4, 5):
        assert content_of(data, image) == IMAGES[100 + image]
    with pytest.raises(ImageError, match=r"a.parquet:3: image 2: row group 1 cannot be read"):
        data.read(2)
    path.write_bytes(content.replace("树".encode(), b"\xff\xff\xff"))
    data, problems = broken(path)
    assert problems == ["a.parquet:5: the text is not UTF-8"]
    assert pairs_of(data) == [pair for pair in PAIRS if pair[1] != "树"]
    assert content_of(data, 4) == IMAGES[104]


def test_columns_of_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"

    def write(columns: dict[str, Any]) -> Path:
        parquet.write_table(pa.table(columns), path)
        return path

    data = opened(write({"file_name": ["x"], "image": [b"content"], "label": [3], "文本": ["字"]}))
    assert (data.read(0), data.texts) == (b"content", ["字"])
    words = pa.array(["字"]).dictionary_encode()
    data = opened(write({"img": pa.array([b"content"], pa.large_binary()), "text": words}))
    assert (data.read(0), data.texts) == (b"content", ["字"])
    data = opened(write({"image": ["../x.png"], "text": ["字"]}))
    with pytest.raises(ImageError, match="is outside the data set's folder"):
        data.read(0)
    data = opened(write({"image": pa.array([b"\xff"]).view(pa.string()), "text": ["字"]}))
    with pytest.raises(ImageError, match="the row has no image"):
        data.read(0)
    for columns, message in (
        ({"a": [b"x"], "text": ["字"]}, r"no column of images .* found a: binary, text: string"),
        ({"image": [b"x"], "label": [3]}, r"no column of texts"),
    ):
        with pytest.raises(DatasetError, match=message):
            opened(write(columns))
    monkeypatch.setattr(parquet_files, "_LARGE_GROUP", 100)
    _, problems = broken(write({"image": [bytes(1000)], "text": ["字"]}))
    assert re.match(r"a.parquet: has a row group with 0 MB of images", problems[0])


def test_missing_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from cnclip.errors import MissingExtraError

    parquet = make_parquet(tmp_path / "parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"cnclip\[bulk\]"):
        opened(parquet)
