"""Tar files, compressed or not, whose headers claim memory or have no end."""

from __future__ import annotations

import gzip
import io
import lzma
import struct
import tarfile
import tracemalloc
import zlib
from pathlib import Path

import pytest

from cnclip.sources import Problems
from cnclip.sources.tar_files import read_images, read_tar
from tests.support.layouts import IMAGES, write_tar

HEADERS = {
    "long name": tarfile.GNUTYPE_LONGNAME,
    "long link": tarfile.GNUTYPE_LONGLINK,
    "pax": tarfile.XHDTYPE,
    "global pax": tarfile.XGLTYPE,
    "Solaris": tarfile.SOLARIS_XHDTYPE,
}


def header(type: bytes, size: int) -> bytes:
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = type, size
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.fixture
def good(tmp_path: Path) -> bytes:
    write_tar(tmp_path / "good.tar", (100, 101))
    return (tmp_path / "good.tar").read_bytes()


def read(path: Path) -> tuple[int, list[str]]:
    """The number of images, and the problems."""
    problems = Problems()
    if path.suffix == ".tar":
        count = len(read_tar(path, path.name, problems, texts=False))
    else:
        count = len(list(read_images(path, path.name, problems)))
    return count, [str(problem) for problem in problems.found]


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
@pytest.mark.parametrize("type", HEADERS.values(), ids=HEADERS.keys())
def test_a_header_that_takes_much_memory(
    tmp_path: Path, good: bytes, type: bytes, name: str
) -> None:
    size = 16 << 20
    path = written(tmp_path / name, header(type, size) + bytes(size) + good)
    tracemalloc.start()
    try:
        count, problems = read(path)
        assert tracemalloc.get_traced_memory()[1] < size // 4
    finally:
        tracemalloc.stop()
    assert count == 0
    (problem,) = problems
    assert f"a header of {size} bytes" in problem


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_a_header_with_long_attributes(tmp_path: Path, good: bytes, name: str) -> None:
    stream = io.BytesIO()
    member = tarfile.TarInfo("图.png")
    member.size = len(IMAGES[100])
    member.pax_headers = {"comment": "a" * 1_000_000}
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member, io.BytesIO(IMAGES[100]))
    assert read(written(tmp_path / name, stream.getvalue())) == (1, [])


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
@pytest.mark.parametrize("type", HEADERS.values(), ids=HEADERS.keys())
def test_headers_that_follow_one_another(
    tmp_path: Path, good: bytes, type: bytes, name: str
) -> None:
    path = written(tmp_path / name, header(type, 0) * 2000 + good)
    count, problems = read(path)
    assert count == 0
    assert "damaged" in problems[0]


def with_dictionary_of_xz(content: bytes) -> bytes:
    """A file of xz whose first block claims a dictionary of 3 GiB."""
    changed = bytearray(content)
    size = (changed[12] + 1) * 4
    assert changed[14] == 0x21  # LZMA2
    changed[16] = 39
    changed[12 + size - 4 : 12 + size] = struct.pack("<I", zlib.crc32(changed[12 : 8 + size]))
    return bytes(changed)


def test_a_dictionary_of_xz(tmp_path: Path, good: bytes) -> None:
    path = tmp_path / "a.tar.xz"
    path.write_bytes(with_dictionary_of_xz(lzma.compress(good)))
    count, problems = read(path)
    assert count == 0
    assert "limit" in problems[0]


def test_the_largest_preset_of_xz(tmp_path: Path, good: bytes) -> None:
    path = tmp_path / "a.tar.xz"
    path.write_bytes(lzma.compress(good, preset=9))
    assert read(path) == (2, [])
    path.write_bytes(path.read_bytes()[:300])
    count, problems = read(path)
    assert count < 2
    assert "damaged" in problems[0]
