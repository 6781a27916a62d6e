"""Every layout has the same pairs; splits, patterns, worker processes, threads."""

from __future__ import annotations

import csv
import hashlib
import multiprocessing
import pickle
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnclip.datasets import PairData, Problems, open_pairs, open_retrieval
from cnclip.errors import DatasetError
from cnclip.preprocessors.decoding import decode_image
from cnclip.sources.images import expand
from tests.support.layouts import (
    IMAGES,
    LAYOUTS,
    PAIRS,
    content_of,
    layouts,
    make_csv,
    make_lmdb,
    make_tsv,
    opened,
    pairs_of,
    stripped,
    write_images,
    write_table,
    write_tar,
)


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
    assert decode_image(rows[0].image.read(), turned=data.turns_images).size == (4, 4)
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


def test_a_database_is_opened_once(tmp_path: Path) -> None:
    place = make_lmdb(tmp_path)
    data = [opened(place), opened(place)]
    streaming = open_retrieval(place).images(Problems())
    first = next(streaming)
    assert digests(data)[0] == digests(data)[1]
    assert first.image.read() == data[0].read(0)
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
