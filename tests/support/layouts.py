"""A small data set of images with texts, in every layout."""

from __future__ import annotations

import base64
import csv
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cnclip.datasets import PairData, Problems, open_pairs, write_split


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
