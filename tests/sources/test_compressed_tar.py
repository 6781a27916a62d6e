"""Compressed tar files: several streams, extra fields, padding, and dictionaries of any size."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import resource
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from cnclip.bulk.items import open_sources
from cnclip.bulk.outcomes import Item
from tests.support.layouts import png

MIB = 1 << 20


def tar_of(count: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for number in range(count):
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(png(number))
            tar.addfile(member, io.BytesIO(png(number)))
    return stream.getvalue()


def items_of(path: Path, content: bytes) -> list[Item]:
    path.write_bytes(content)
    return list(open_sources(path).items())


def in_two_streams(content: bytes) -> bytes:
    """With more zeros between them than are read at once."""
    return lzma.compress(content[:1000]) + bytes(40_000) + lzma.compress(content[1000:]) + bytes(4)


def with_extra_field(content: bytes) -> bytes:
    """As bgzip writes it: the size of the stream, in a field of the header."""
    packed = bytearray(gzip.compress(content, mtime=0))
    packed[3] |= 4
    packed[10:10] = struct.pack("<H2sHH", 6, b"BC", 2, len(packed) + 7)
    return bytes(packed)


def zstd(content: bytes) -> bytes:
    return pyarrow.Codec("zstd").compress(content).to_pybytes()


def with_dictionary(size: int) -> Callable[[bytes], bytes]:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": size}]
    return lambda content: lzma.compress(content, filters=filters)


@pytest.mark.parametrize(
    "compress",
    [
        lzma.compress,
        in_two_streams,
        with_dictionary(64 * MIB),  # of xz -9
        lambda content: lzma.compress(content, lzma.FORMAT_ALONE),
        lambda content: lzma.compress(content, preset=0),
    ],
)
def test_every_image_is_read(compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    items = items_of(tmp_path / "a.tar.xz", compress(tar_of(5)))
    assert [item.image.read() for item in items if item.image is not None] == [
        png(number) for number in range(5)
    ]


@pytest.mark.parametrize("compress", [gzip.compress, with_extra_field, bz2.compress, zstd])
def test_every_stream_is_read(compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    content = tar_of(5)
    parts = [content[:1000], content[1000:2000], content[2000:]]
    items = items_of(tmp_path / "a.tar.packed", b"".join(map(compress, parts)))
    assert [item.image.read() for item in items if item.image is not None] == [
        png(number) for number in range(5)
    ]
    assert len(items) == 5


def cut(compress: Callable[[bytes], bytes], content: bytes) -> bytes:
    return compress(content[:40_000]) + compress(content[40_000:])[:99]


def with_damaged_magic(compress: Callable[[bytes], bytes], content: bytes) -> bytes:
    return compress(content[:40_000]) + b"no stream" + compress(content[40_000:])


# Arrow's reader of zstd drops up to 10 kB before the damage.
@pytest.mark.parametrize("damage", [cut, with_damaged_magic])
@pytest.mark.parametrize(
    ("compress", "left"), [(gzip.compress, 39), (bz2.compress, 39), (lzma.compress, 39), (zstd, 30)]
)
def test_images_before_damage_are_read(
    compress: Callable[[bytes], bytes], left: int, damage: Any, tmp_path: Path
) -> None:
    items = items_of(tmp_path / "a.tgz", damage(compress, tar_of(60)))
    (error,) = (item.error for item in items if item.error is not None)
    assert error.startswith("damaged: ")
    images = [item.image.read() for item in items if item.image is not None]
    assert len(images) == left
    assert images == [png(number) for number in range(len(images))]


def test_frames_that_zstd_skips(tmp_path: Path) -> None:
    skipped = struct.pack("<II4s", 0x184D2A50, 4, b"size")  # pzstd's first frame
    items = items_of(tmp_path / "a.tar.zst", skipped + zstd(tar_of(5)))
    assert [item.error for item in items] == [None] * 5


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_a_tar_whose_first_name_begins_as_bzip2_does(name: str, tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        member = tarfile.TarInfo("BZh9/0.png")
        member.size = len(png(0))
        tar.addfile(member, io.BytesIO(png(0)))
    (item,) = items_of(tmp_path / name, stream.getvalue())
    assert item.image is not None and item.image.read() == png(0)


def claiming(content: bytes, *, alone: bool) -> bytes:
    """Compressed content that claims a dictionary of 2 GB or more."""
    if alone:
        packed = bytearray(lzma.compress(content, lzma.FORMAT_ALONE))
        packed[1:5] = struct.pack("<I", 2 << 30)
        return bytes(packed)
    packed = bytearray(lzma.compress(content, check=lzma.CHECK_NONE))
    # The header of the block follows that of the stream, 12 bytes: its size, flags, the filter
    # (0x21), the size of its properties, the dictionary's; padding, and a checksum.
    end = 12 + 4 * (packed[12] + 1)
    at = packed.index(b"\x21\x01", 12, end) + 2
    packed[at] = 38  # 2 GB
    packed[end - 4 : end] = struct.pack("<I", zlib.crc32(packed[12 : end - 4]))
    return bytes(packed)


@pytest.mark.parametrize("alone", [False, True])
def test_a_huge_dictionary_is_refused(alone: bool, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    items = items_of(tmp_path / "a.tar.xz", claiming(tar_of(3), alone=alone))
    assert [item.error for item in items] == ["damaged: Memory usage limit exceeded"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024
    lzma.decompress(claiming(tar_of(3), alone=alone))  # a valid file, but for its memory


@pytest.mark.parametrize("kept", [0.3, 0.6])
def test_a_file_that_ends_early(kept: float, tmp_path: Path) -> None:
    content = lzma.compress(tar_of(20))
    items = items_of(tmp_path / "a.tar.xz", content[: int(kept * len(content))])
    assert [item.error for item in items if item.error is not None] == [
        "damaged: the file ends in the middle of compressed data"
    ]


def test_other_bytes_after_the_end(tmp_path: Path) -> None:
    items = items_of(tmp_path / "a.tar.xz", lzma.compress(tar_of(2)[:2000]) + b"others")
    errors = [item.error for item in items if item.error is not None]
    assert len(errors) == 1 and errors[0].startswith("damaged: ")
