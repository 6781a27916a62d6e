"""Random access to pairs: every layout, worker processes, splits, damage."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import multiprocessing
import pickle
import re
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cnclip import DatasetError, ImageError
from cnclip.datasets import PairData, Problems, open_pairs, open_retrieval, write_split
from cnclip.datasets.chinese_clip import TsvData
from cnclip.datasets.retrieval import open_image
from cnclip.sources import parquet_files
from cnclip.sources.folder import expand


def png(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (number, 2 * number, 255 - number)).save(stream, "PNG")
    return stream.getvalue()


IMAGES = {number: png(number) for number in range(100, 106)}
# One image without a text, one with two; texts with what CSV must quote.
TEXTS = {
    100: ["一只猫"],
    101: ['"引号", 逗号', "第二句\n第二行"],
    102: ["a dog"],
    103: ["  空格"],
    104: ["树"],
    105: [],
}
ROWS = [(image, text) for image, texts in TEXTS.items() for text in texts]
PAIRS = [(IMAGES[image], text) for image, text in ROWS]


def make_tsv(folder: Path, split: str = "train") -> Path:
    rows = [(number, text, [image]) for number, (image, text) in enumerate(ROWS)]
    write_split(folder, split, IMAGES.items(), rows)
    return folder


def make_zip(folder: Path, split: str = "train", method: int = zipfile.ZIP_STORED) -> Path:
    make_tsv(folder / "unpacked", split)
    with zipfile.ZipFile(folder / "data.zip", "w", method) as archive:
        archive.writestr("data/readme.txt", "in front")
        for file in (folder / "unpacked").iterdir():
            archive.write(file, f"data/{file.name}")
            archive.writestr(f"__MACOSX/data/._{file.name}", b"junk")
    return folder / "data.zip"


def make_lmdb(folder: Path, split: str = "train", *, keep_texts: bool = False) -> Path:
    """As cn_clip's build_lmdb_dataset.py writes it."""
    lmdb = pytest.importorskip("lmdb")
    values = {
        "imgs": {str(key): base64.b64encode(content) for key, content in IMAGES.items()}
        | {"num_images": b"6"},
        "pairs": {
            str(number): pickle.dumps((image, number, text))
            for number, (image, text) in enumerate(ROWS)
        }
        | {"num_samples": b"6"},
    }
    for name, some in values.items():
        place = folder / "lmdb" / split / name
        place.mkdir(parents=True)
        with lmdb.open(str(place), map_size=1 << 24) as opened, opened.begin(write=True) as put:
            for key, value in some.items():
                put.put(key.encode(), value)
    if keep_texts:
        make_tsv(folder, split)
        (folder / f"{split}_imgs.tsv").unlink()
    return folder


def write_images(folder: Path) -> Path:
    (folder / "imgs").mkdir(parents=True)
    for key, content in IMAGES.items():
        (folder / "imgs" / f"{key}.png").write_bytes(content)
    return folder


def make_folder(folder: Path, split: str = "train") -> Path:
    place = write_images(folder / split)
    with (place / "metadata.jsonl").open("w", encoding="utf-8") as file:
        for key, texts in TEXTS.items():
            row = {"file_name": f"imgs/{key}.png", "text": texts}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return folder


def write_table(path: Path, columns: tuple[str, str], delimiter: str = ",", **how: Any) -> Path:
    with path.open("w", newline="", encoding=how.pop("encoding", "utf-8")) as file:
        table = csv.writer(file, delimiter=delimiter, **how)
        table.writerow(("编号", *columns))
        table.writerows(
            (number, f"imgs/{image}.png", text) for number, (image, text) in enumerate(ROWS)
        )
    return path


def make_csv(folder: Path, split: str = "train") -> Path:
    write_table(write_images(folder / split) / "metadata.csv", ("file_name", "text"))
    return folder


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def write_tar(path: Path, keys: Iterable[int], **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **how) as tar:
        for key in keys:
            add(tar, f"长名字/{key}.PNG", IMAGES[key])
            if len(TEXTS[key]) == 1:
                add(tar, f"长名字/{key}.txt", TEXTS[key][0].encode() + b"\n")
                add(tar, f"长名字/{key}.json", b'{"caption": "not this one"}')
            else:
                add(tar, f"长名字/{key}.json", json.dumps({"caption": TEXTS[key]}).encode())
            add(tar, f"长名字/{key}.cls", b"7")
    return path


def make_tars(folder: Path, split: str = "train") -> Path:
    write_tar(folder / f"{split}-000.tar", (100, 101, 102))
    write_tar(folder / f"{split}-001.tar", (103, 104, 105), format=tarfile.GNU_FORMAT)
    return folder


def write_parquet(path: Path, keys: Iterable[int], kind: str, rows: int = 2) -> Path:
    pa = pytest.importorskip("pyarrow")
    path.parent.mkdir(parents=True, exist_ok=True)
    images: list[Any] = [IMAGES[key] for key in keys]
    names = [f"imgs/{key}.png" for key in keys]
    if kind == "struct":
        images = [{"bytes": c, "path": n} for c, n in zip(images, names, strict=True)]
    elif kind == "path":
        images = names
    texts = pa.array([TEXTS[key] for key in keys], pa.list_(pa.string()))
    label = pa.array([0 for _ in keys])
    table = pa.table({"label": label, "image": images, "caption": texts})
    pa.parquet.write_table(table, path, row_group_size=rows)
    return path


def make_parquet(folder: Path, split: str = "train", kind: str = "struct") -> Path:
    pytest.importorskip("pyarrow.parquet")
    write_parquet(folder / "data" / f"{split}-00000-of-00002.parquet", (100, 101, 102, 103), kind)
    write_parquet(folder / "data" / f"{split}-00001-of-00002.parquet", (104, 105), kind)
    if kind == "path":
        write_images(folder / "data")
    return folder


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "tsv": make_tsv,
    "zip": make_zip,
    "lmdb": make_lmdb,
    "lmdb with texts": lambda folder: make_lmdb(folder, keep_texts=True),
    "folder": make_folder,
    "csv": make_csv,
    "tar": make_tars,
    "parquet": make_parquet,
    "parquet of bytes": lambda folder: make_parquet(folder, kind="bytes"),
    "parquet of paths": lambda folder: make_parquet(folder, kind="path"),
}
layouts = pytest.mark.parametrize("make", LAYOUTS.values(), ids=LAYOUTS.keys())


def stripped(pairs: Iterable[tuple[bytes, str]]) -> list[tuple[bytes, str]]:
    """A text file's text has no spaces around it."""
    return [(content, text.strip()) for content, text in pairs]


def opened(path: Path | str, **options: Any) -> PairData:
    """A data set in which nothing is wrong."""
    problems = Problems()
    data = open_pairs(path, **options, problems=problems)
    assert [str(problem) for problem in problems.found if problem.skipped] == []
    return data


def broken(path: Path | str) -> tuple[PairData, list[str]]:
    problems = Problems()
    data = open_pairs(path, problems=problems)
    return data, [str(problem) for problem in problems.found]


def content_of(data: PairData, image: int) -> bytes:
    content = data.read(image)
    return content if isinstance(content, bytes) else content.read_bytes()


def pairs_of(data: PairData) -> list[tuple[bytes, str]]:
    return [(content_of(data, p), data.texts[t]) for p, t in data.pairs.tolist()]


@layouts
def test_every_layout_gives_the_same(make: Callable[[Path], Path], tmp_path: Path) -> None:
    data = opened(make(tmp_path / "data"))
    assert stripped(pairs_of(data)) == stripped(PAIRS)
    count = 5 if make is make_csv else 6  # which has a row for each text
    contents = [content_of(data, image) for image in range(count)]
    assert contents == list(IMAGES.values())[:count]
    assert len(data.image_ids) == len(set(data.image_ids)) == count
    assert len({data.where(image) for image in range(count)}) == count
    assert (data.name, data.split) == ("data", "train")
    assert data.pairs.dtype == np.int64
    assert data.pairs.shape == (len(PAIRS), 2)
    in_blocks = (tmp_path / "data" / "data" / "train-00001-of-00002.parquet").exists()
    assert (data.groups is not None) == in_blocks
    if data.groups is not None:
        assert data.groups.tolist() == [0, 0, 1, 1, 2, 2]


@layouts
def test_evaluation_reads_the_same(make: Callable[[Path], Path], tmp_path: Path) -> None:
    place = make(tmp_path / "data")
    data, problems = open_retrieval(place), Problems()
    for _ in range(2):
        rows = list(data.images(problems))
        images = {row.image_id: row.image.read() for row in rows}
        found = [(images[row.image_ids[0]], row.text) for row in data.texts(problems)]
        assert stripped(found) == stripped(PAIRS)
        assert not any(problem.skipped for problem in problems.found)
    assert all(file.is_file() for file in data.files())
    assert open_image(rows[0], turned=data.turns_images).size == (4, 4)
    assert opened(place).turns_images == data.turns_images


def digests(data: Iterable[PairData]) -> list[str]:
    return [
        hashlib.sha256(b"".join(content_of(one, p) for p in reversed(range(5)))).hexdigest()
        for one in data
    ]


def work(data: list[PairData], end: Any) -> None:
    try:
        end.send((digests(data), [one.fingerprint for one in data]))
    except BaseException as error:
        end.send(error)
        raise


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_worker_processes(method: str, tmp_path: Path) -> None:
    pytest.importorskip("lmdb")
    pytest.importorskip("pyarrow")
    data = [opened(make(tmp_path / name / "data")) for name, make in LAYOUTS.items()]
    expected = digests(data)  # what this process has opened is open when it forks
    assert len(set(expected)) == 1
    context = multiprocessing.get_context(method)
    workers = []
    for _ in range(2 if method == "fork" else 1):
        ours, theirs = context.Pipe()
        worker = context.Process(target=work, args=(data, theirs))
        worker.start()
        theirs.close()
        workers.append((worker, ours))
    for worker, ours in workers:
        assert ours.poll(60)
        assert ours.recv() == (expected, [one.fingerprint for one in data])
        worker.join(60)
        assert worker.exitcode == 0
        ours.close()
    assert digests(data) == expected
    assert digests(pickle.loads(pickle.dumps(data))) == expected


@layouts
def test_threads(make: Callable[[Path], Path], tmp_path: Path) -> None:
    data = opened(make(tmp_path / "data"))
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda number: content_of(data, number % 5), range(100)))
    assert found == list(IMAGES.values())[:5] * 20


@layouts
def test_fingerprints(make: Callable[[Path], Path], tmp_path: Path) -> None:
    place = make(tmp_path / "data")
    known = opened(place).fingerprint
    assert opened(place).fingerprint == known
    shutil.copytree(tmp_path / "data", tmp_path / "moved" / "data")
    moved = tmp_path / "moved" / place.relative_to(tmp_path)
    assert opened(moved).fingerprint == known
    assert opened(make(tmp_path / "another")).fingerprint == known


def test_fingerprints_see_changes(tmp_path: Path) -> None:
    place = make_tsv(tmp_path)
    known = {opened(place).fingerprint}
    texts = place / "train_texts.jsonl"
    texts.write_bytes(texts.read_bytes().replace("树".encode(), "花".encode()))
    known.add(opened(place).fingerprint)
    texts.write_bytes(texts.read_bytes().replace(b"[104]", b"[105]"))
    known.add(opened(place).fingerprint)
    with (place / "train_imgs.tsv").open("ab") as file:
        file.write(b"7\tAAAA\n")
    known.add(opened(place).fingerprint)
    assert len(known) == 4


def test_the_data_set_that_ships() -> None:
    data = opened("emoji-cn")
    assert (data.name, data.split, len(data.pairs), data.groups) == ("emoji-cn", "all", 362, None)
    assert isinstance(data.read(0), Path)
    assert str(data.where(0)) == "gallery.jsonl:1"


# Splits


@pytest.mark.parametrize(
    ("splits", "options", "expected"),
    [
        (["train", "valid", "test"], {}, "train"),
        (["train", "valid", "test"], {"role": "val"}, "valid"),
        (["train", "test"], {"role": "val"}, "test"),
        (["training", "dev", "test"], {"role": "val"}, "dev"),
        (["training", "dev"], {"role": "train"}, "training"),
        (["train", "valid"], {"split": "valid"}, "valid"),
        (["only"], {}, "only"),
        (["only"], {"role": "val"}, "only"),
        (["a", "b"], {}, "has the splits a, b: choose one"),
        (["train", "a"], {"role": "val"}, "has the splits a, train: choose one"),
        (["train"], {"split": "test"}, "has no split 'test'; it has train"),
    ],
)
def test_splits(splits: list[str], options: Any, expected: str, tmp_path: Path) -> None:
    for split in splits:
        make_tsv(tmp_path, split)
    if " " in expected:
        with pytest.raises(DatasetError, match=expected):
            open_pairs(tmp_path, **options, problems=Problems())
    else:
        assert opened(tmp_path, **options).split == expected


def test_notations_of_lmdb(tmp_path: Path) -> None:
    place = make_lmdb(tmp_path / "MUGE")
    make_lmdb(tmp_path / "MUGE", "valid")
    for path in (place, place / "lmdb", place / "lmdb" / "train", f"{place}/lmdb/train/"):
        data = opened(path)
        assert (data.name, data.split, pairs_of(data)) == ("MUGE", "train", PAIRS)
    assert opened(place / "lmdb" / "valid").split == "valid"


def test_a_data_base_is_opened_once(tmp_path: Path) -> None:
    place = make_lmdb(tmp_path)
    data = [opened(place), opened(place)]
    streaming = open_retrieval(place).images(Problems())
    first = next(streaming)
    assert digests(data)[0] == digests(data)[1]
    assert first.image.content() == data[0].read(0)
    assert len(list(streaming)) == 5
    assert content_of(data[1], 5) == IMAGES[105]


def test_splits_of_shards(tmp_path: Path) -> None:
    for name in ("train-0", "train_1", "val-0", "extra"):
        write_tar(tmp_path / "named" / f"{name}.tar", (100, 101))
    assert len(opened(tmp_path / "named").image_ids) == 4
    assert opened(tmp_path / "named", role="val").split == "val"
    assert len(opened(tmp_path / "named", split="extra").image_ids) == 2
    for name in ("train/0", "train/1", "test/0"):
        write_tar(tmp_path / "folders" / f"{name}.tar", (100, 101))
    assert len(opened(tmp_path / "folders").image_ids) == 4
    assert opened(tmp_path / "folders", role="val").split == "test"
    for name in ("a", "b", "._a"):
        write_tar(tmp_path / "plain" / f"{name}.tar", (100, 101))
    data = opened(tmp_path / "plain", split="mine")
    assert (data.split, len(data.image_ids)) == ("mine", 4)
    assert opened(tmp_path / "plain" / "a.tar").name == "a"


def test_patterns(tmp_path: Path) -> None:
    for number in range(12):
        write_tar(tmp_path / "shards" / f"{number:03}.tar", (100, 101))
    folder = tmp_path / "shards"
    data = opened(folder / "*.tar")
    assert (data.name, len(data.image_ids)) == ("shards", 24)
    assert data.image_ids[2] == str(data.where(2)) == "001.tar:长名字/100"
    assert len(opened(f"{folder}/{{002..010}}.tar").image_ids) == 18
    assert len(opened(f"{folder}/00{{1,3}}.tar").image_ids) == 4
    listed = expand(f"{folder}/{{01{{1,0}},0*}}.tar")
    assert len(listed) == len(set(listed)) == 12
    assert [path.name for path in expand(f"{folder}/{{011,0*}}.tar")][:2] == ["011.tar", "000.tar"]
    with pytest.raises(DatasetError, match=r"012.tar: no such file"):
        opened(f"{folder}/{{010..012}}.tar")
    with pytest.raises(DatasetError, match=r"no such file"):
        opened(folder / "x*.tar")
    with pytest.raises(DatasetError, match=r"of no known layout"):
        opened(folder / "*.png")


def test_files_of_rows(tmp_path: Path) -> None:
    folder = write_images(tmp_path)
    for name, columns, how in (
        ("a.csv", ("图片", "文本"), {"encoding": "utf-8-sig"}),
        ("b.tsv", ("filepath", "title"), {"delimiter": "\t", "lineterminator": "\n"}),
        ("c.csv", ("image", "caption"), {"quoting": csv.QUOTE_ALL}),
    ):
        data = opened(write_table(folder / name, columns, **how))
        assert (data.name, pairs_of(data)) == (name[0], PAIRS)
    assert data.image_ids[0] == "imgs/100.png"
    assert [str(data.where(number)) for number in (0, 1, 2)] == ["c.csv:2", "c.csv:3", "c.csv:6"]
    (folder / "a.csv").unlink()
    assert pairs_of(opened(folder)) == PAIRS  # the only one


# Damage


def test_broken_tsv(tmp_path: Path) -> None:
    make_tsv(tmp_path)
    with (tmp_path / "train_imgs.tsv").open("ab") as file:
        file.write(b"106\t*no base64*\n107\tA===\n108 AAAA\n100\tAAAA\n\tAAAA\n109\tAAA\r\n")
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
    assert str(data.where(6)) == "train_imgs.tsv:13"
    named = " ".join(problems)
    for line in (7, 8, 9, 10, 11, 12):
        assert f"train_imgs.tsv:{line}: " in named
    for line in (7, 8, 9, 10):
        assert f"train_texts.jsonl:{line}: " in named
    assert "train_texts.jsonl:9: text 52 names images that do not exist: 106 (used" in named
    with pytest.raises(DatasetError, match="train_imgs.tsv:7: image 106: not base64"):
        open_pairs(tmp_path, problems=Problems(strict=True))


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
    shutil.rmtree(place / "lmdb" / "train" / "imgs")
    gone = pickle.loads(pickle.dumps(data))
    del data
    with pytest.raises(ImageError, match=r"not an LMDB, or damaged"):
        gone.read(0)


def test_broken_folder(tmp_path: Path) -> None:
    make_folder(tmp_path)
    with (tmp_path / "train" / "metadata.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"file_name": "imgs/none.png", "text": "none"}\n')
        file.write('{"file_name": "imgs/105.png", "text": ["", 5, "good"]}\n')
        file.write('{"file_name": "../100.png", "text": "out"}\n')
    data, problems = broken(tmp_path)
    assert pairs_of(data) == [*PAIRS, (IMAGES[105], "good")]
    assert {problem.partition(": ")[0] for problem in problems} == {
        f"metadata.jsonl:{line}" for line in (7, 8, 9)
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
        (good.decode().encode("gbk"), r"a.csv:1: no column of images .* in UTF-8"),
        (b"file_name,words\n", r"a.csv:1: no column of texts"),
        (b"", r"no image with a text that can be used"),
    ):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=message) as caught:
            broken(path)
        str(caught.value).encode()


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
    data, problems = broken(tmp_path)
    more = [(IMAGES[100], "分开"), (IMAGES[102], "three"), (IMAGES[105], "seven")]
    assert stripped(pairs_of(data)) == [*stripped(PAIRS), *more]
    assert len(data.image_ids) == 6 + 7
    assert sorted(p.partition(": ")[0] for p in problems) == [
        "train-002.tar:2",
        "train-002.tar:3",
        "train-002.tar:3.gif",
        "train-002.tar:4",
        "train-002.tar:5",
        "train-002.tar:6",
        "train-002.tar:8",
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
    lmdb = make_lmdb(tmp_path / "lmdb")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "lmdb", None)
    for place, extra in ((parquet, "parquet"), (lmdb, "lmdb")):
        with pytest.raises(MissingExtraError, match=rf"cnclip\[{extra}\]"):
            opened(place)


# Random access to lines


def encoded(content: bytes) -> bytes:
    return base64.b64encode(content)


field = st.one_of(
    st.binary(max_size=12).map(encoded),
    st.binary(max_size=12).map(base64.urlsafe_b64encode),
    st.binary(max_size=8),
    st.text("AB=+/-_ \t", max_size=9).map(str.encode),
)
line = st.builds(
    lambda before, key, gap, text, end: before + key + gap + text + end,
    st.sampled_from([b"", b"", b" ", b"\xef\xbb\xbf"]),
    st.sampled_from([b"1", b"2", b"3", b"04", b"x y", b"", "图".encode()]),
    st.sampled_from([b"\t", b"\t", b"\t", b" ", b"\t\t"]),
    field,
    st.sampled_from([b"\n", b"\n", b"\r\n", b"\n\n", b" \n", b"\t\n", b""]),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(line, max_size=12), st.sampled_from([None, 8]))
def test_random_access_equals_streaming(lines: list[bytes], longest: int | None) -> None:
    with pytest.MonkeyPatch.context() as patched, tempfile.TemporaryDirectory() as folder:
        if longest:
            patched.setattr("cnclip.sources.lines.MAX_LINE", longest)
        place = Path(folder)
        (place / "a_imgs.tsv").write_bytes(b"".join(lines))
        (place / "a_texts.jsonl").write_bytes(b"")
        data = TsvData(place, "data", "a")
        told, located = Problems(), Problems()
        rows = list(data.images(told))
        store = data.locate(located)
        assert located.found == told.found
        assert list(store.ids) == [row.image_id for row in rows]
        assert [store.content(n) for n in range(len(rows))] == [row.image.read() for row in rows]
        assert [store.where(n) for n in range(len(rows))] == [row.where for row in rows]
