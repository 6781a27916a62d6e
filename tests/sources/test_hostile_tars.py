"""Tar files, compressed or not, whose headers claim memory or have no end."""

from __future__ import annotations

import gzip
import io
import lzma
import struct
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable
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


def gnu_sparse(blocks: int) -> bytes:
    """A sparse file of GNU tar's former format, with blocks of 21 parts, and 512 bytes."""
    member = tarfile.TarInfo("sparse.png")
    member.type, member.size = tarfile.GNUTYPE_SPARSE, 512
    first = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    first[482:495] = b"\1" + b"00000001000\0"
    first[148:156] = b" " * 8
    first[148:156] = b"%06o\0 " % sum(first)
    parts = b"00000000010\0" * 42
    return bytes(first) + (parts + b"\1".ljust(8, b"\0")) * (blocks - 1) + parts + bytes(8 + 512)


def pax_sparse(parts: int) -> bytes:
    """A sparse file of GNU tar's latest format."""
    stream = io.BytesIO()
    content = (b"%d\n" % parts + b"4096\n512\n" * parts).ljust(512, b"\0")
    member = tarfile.TarInfo("GNUSparseFile.0/sparse.png")
    member.size = len(content)
    names = ("major", "1"), ("minor", "0"), ("name", "sparse.png"), ("realsize", "5000")
    member.pax_headers = {f"GNU.sparse.{name}": value for name, value in names}
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member, io.BytesIO(content))
        end = tar.offset
    return stream.getvalue()[:end]


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
@pytest.mark.parametrize("make", [gnu_sparse, pax_sparse])
def test_sparse_files_in_tars(
    tmp_path: Path, good: bytes, make: Callable[[int], bytes], name: str
) -> None:
    """They are skipped, without lists of their parts."""
    for parts in (1, 3, 30_000):
        path = written(tmp_path / name, make(parts) + good)
        tracemalloc.start()
        try:
            assert read(path) == (2, [])
            assert tracemalloc.get_traced_memory()[1] < 16 << 20
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_a_tar_that_ends_in_a_header(tmp_path: Path, name: str) -> None:
    count, problems = read(written(tmp_path / name, gnu_sparse(3)[:1200]))
    assert count == 0
    assert "ends in a header" in problems[0]


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
