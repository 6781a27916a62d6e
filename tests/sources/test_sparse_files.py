"""Sparse files of a terabyte under the names of images, lists and tables: refused at once."""

from __future__ import annotations

import codecs
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cnclip import load_image
from cnclip.bulk.items import open_sources
from cnclip.datasets import open_retrieval
from cnclip.errors import DatasetError, ImageError
from cnclip.sources import Problems
from tests.support.layouts import png

SIZE = 1 << 40


def make_sparse(path: Path, head: bytes) -> Path:
    with open(path, "wb") as file:
        file.write(head)
        file.truncate(SIZE)
    return path


@pytest.fixture(autouse=True)
def is_quick() -> Iterator[None]:
    def fail(*_: Any) -> None:
        raise AssertionError("it reads a terabyte")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("head", [png(0), b"\xff\xd8\xff\xe0", b"P6 8 8 255\n#", b""])
def test_a_sparse_image(head: bytes, tmp_path: Path) -> None:
    path = make_sparse(tmp_path / "a.png", head)
    for source in (path, path.as_uri()):
        with pytest.raises(ImageError, match=r"a\.png: a file of more than 1073741824 bytes"):
            load_image(source)
    (item,) = open_sources(path).items()
    assert item.error == "a file of more than 1073741824 bytes"


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("a.txt", b"x.png\n"),
        ("a.csv", b"image,text\nx.png,x\n"),
        ("a.tsv", b"image\ttext\nx.png\tx\n"),
        ("a.jsonl", b'{"image": "x.png", "text": "x"}\n'),
        ("a.json", b'[{"image": "x.png", "text": "x"}'),
    ],
)
@pytest.mark.parametrize("has_head", [True, False])
def test_a_sparse_list_or_table(name: str, head: bytes, has_head: bool, tmp_path: Path) -> None:
    path = make_sparse(tmp_path / name, head if has_head else b"")
    with pytest.raises(DatasetError, match="zeros in a row, as where a download"):
        list(open_sources(path).items())
    with pytest.raises(DatasetError, match="zeros in a row|not a zip"):  # no lists
        list(open_retrieval(path).texts(Problems(strict=True)))


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE])
@pytest.mark.parametrize("encoding", [None, "utf-8", "gb18030", "utf-16"])
def test_a_sparse_file_of_a_known_encoding(
    name: str, mark: bytes, encoding: str | None, tmp_path: Path
) -> None:
    path = make_sparse(tmp_path / name, mark)
    with pytest.raises(DatasetError, match="zeros in a row, as where a download|is damaged"):
        list(open_sources(path, encoding=encoding).items())


def test_lines_after_fewer_zeros_are_read(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png(0))
    with open(tmp_path / "a.txt", "wb") as file:
        file.seek(3 << 20)
        file.write(b"\nx.png\n")
    items = list(open_sources(tmp_path / "a.txt").items())
    assert items[-1].error is None and items[-1].image is not None
