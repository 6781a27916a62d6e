"""Files of the cache of prepared models that are damaged: noticed, whatever the damage."""

from __future__ import annotations

import io
import logging
import os
import resource
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cnclip import _core, pipeline
from cnclip.engine import open_engine
from cnclip.errors import ArchiveError
from cnclip.modeling.lower import torchscript
from tests.support.prepared_models import Rows, open_and_check


def flipped(content: bytes, position: int, bits: int = 1) -> bytes:
    position %= len(content)
    return b"".join(
        (content[:position], bytes([content[position] ^ bits]), content[position + 1 :])
    )


@pytest.mark.parametrize(
    "damage",
    [
        lambda good: b"",
        lambda good: good[:2],
        lambda good: good[: len(good) // 2],
        lambda good: good + b"\0",
        lambda good: bytes(len(good)),
        lambda good: flipped(good, 3),
        lambda good: flipped(good, 9),
        lambda good: flipped(good, 17),
        lambda good: flipped(good, 64),
        lambda good: flipped(good, len(good) // 3, 128),
        lambda good: flipped(good, -2000),
        lambda good: flipped(good, -1),
    ],
    ids=(
        "emptied,cut to 2 bytes,cut in half,longer,zeros,magic,graph's offset,graph's size,"
        "first weight,a weight,the graph,the checksum"
    ).split(","),
)
def test_a_damaged_file_is_written_again(
    file: Path, archive: Path, expected: Rows, damage: Callable[[bytes], bytes]
) -> None:
    good = file.read_bytes()
    file.write_bytes(damage(good))
    assert open_and_check(archive, file.parent, expected) == file
    assert file.read_bytes() == good
    assert open_and_check(archive, file.parent, expected) == file


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_damage_is_noticed(
    file: Path, archive: Path, expected: Rows, data: st.DataObject
) -> None:
    """Bytes that are changed, missing, repeated or added anywhere."""
    good = file.read_bytes()
    places = st.integers(0, len(good) - 1)
    first, last = sorted((data.draw(places), data.draw(places)))
    part = data.draw(st.sampled_from((b"", good[: last - first])) | st.binary(max_size=100))
    damaged = (
        good[:first] + part + good[data.draw(st.sampled_from((first, first + len(part), last))) :]
    )
    file.write_bytes(damaged)
    assert open_and_check(archive, file.parent, expected) == file
    assert file.read_bytes() == good


def with_checksum(content: bytes) -> bytes:
    return content + zlib.crc32(content).to_bytes(4, "little")


def test_a_file_that_is_intact_but_unusable(
    file: Path, archive: Path, expected: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    """The archive is opened, and the file not written again at each opening."""
    other = with_checksum(b"of another kind" * 10)
    file.write_bytes(other)
    with caplog.at_level(logging.INFO, logger="cnclip"):
        open_and_check(archive, file.parent, expected)
    assert file.read_bytes() == other
    assert caplog.messages[-1:] == [
        "the cache of prepared models cannot be used: "
        f"{file}: reading the prepared model: not a prepared model"
    ]


@pytest.fixture
def open_file(archive: Path) -> Iterator[Callable[[Path], Rows]]:
    """Opens a file as the cache does after its checksum was right, and returns rows of texts."""
    opened = pipeline(model=archive, device="cpu")
    info = opened.model.info

    def encode(path: Path) -> Rows:
        encoder = _core.Encoder(
            open_engine(),
            path,
            opened.preprocessor.tokenizer,
            info.embed_dim,
            info.context_length,
            num_threads=1,
            is_prepared=True,
        )
        return [encoder.encode_texts(["猫"])]

    return encode


@pytest.mark.slow
def test_no_header_crashes(file: Path, tmp_path: Path, open_file: Callable[[Path], Rows]) -> None:
    """Each byte of the header: refused, or without influence."""
    good, (wanted,) = file.read_bytes(), open_file(file)
    copy = tmp_path / "copy"
    refused = 0
    for position in range(64):
        for bits in (1, 0x40, 0x80, 0xFF):
            copy.write_bytes(flipped(good, position, bits))
            try:
                (found,) = open_file(copy)
            except ArchiveError as error:
                assert str(error.where.file) == str(copy)
                refused += 1
            else:
                np.testing.assert_array_equal(found, wanted)
    assert refused >= 16 * 4  # magic and offset: none of them loads


@pytest.mark.parametrize(
    ("offset", "size", "reason"),
    [
        (0, 100, "the file is truncated"),
        (2**64 - 1, 100, "the file is truncated"),
        (64, 2**64 - 1, "the file is truncated"),
        (64, 2**63, "the file is truncated"),
    ],
)
def test_a_graph_outside_of_the_file(
    file: Path,
    tmp_path: Path,
    open_file: Callable[[Path], Rows],
    offset: int,
    size: int,
    reason: str,
) -> None:
    good = file.read_bytes()
    copy = tmp_path / "copy"
    copy.write_bytes(good[:8] + struct.pack("=QQ", offset, size) + good[24:])
    with pytest.raises(ArchiveError, match=reason):
        open_file(copy)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (-64, "a tensor is outside"),
        (-1, "a tensor is outside"),
        (64, "other tensors than its graph"),
    ],
)
def test_a_graph_of_other_tensors(
    file: Path, tmp_path: Path, open_file: Callable[[Path], Rows], change: int, reason: str
) -> None:
    good = file.read_bytes()
    offset, size = struct.unpack("=QQ", good[8:24])
    weights = good[64:offset] + bytes(64)
    copy = tmp_path / "copy"
    copy.write_bytes(
        good[:8]
        + struct.pack("=QQ", offset + change, size)
        + good[24:64]
        + weights[: offset - 64 + change]
        + good[offset:]
    )
    with pytest.raises(ArchiveError, match=reason):
        open_file(copy)


def with_tensor(good: bytes, tensor: torch.Tensor) -> bytes:
    """A prepared file whose graph has this tensor in the place of its first."""
    offset, size = struct.unpack("=QQ", good[8:24])
    with torchscript():
        module = torch.jit.load(io.BytesIO(good[offset : offset + size]))
        next(iter(module.parameters())).data = tensor
        graph = io.BytesIO()
        torch.jit.save(module, graph)
    content = graph.getvalue()
    return good[:16] + struct.pack("=Q", len(content)) + good[24:offset] + content


@pytest.mark.parametrize("sizes", [(2**31, 2**31), (2**31, 2**30), (2**20, 2**20)], ids=str)
def test_tensors_larger_than_the_file(
    file: Path, tmp_path: Path, open_file: Callable[[Path], Rows], sizes: tuple[int, int]
) -> None:
    """Also where the number of bytes overflows."""
    copy = tmp_path / "copy"
    copy.write_bytes(with_tensor(file.read_bytes(), torch.zeros(()).expand(sizes)))
    with pytest.raises(ArchiveError, match="a tensor is outside"):
        open_file(copy)


def test_a_tensor_whose_padding_is_not_in_the_file(
    file: Path, tmp_path: Path, open_file: Callable[[Path], Rows]
) -> None:
    good = with_tensor(file.read_bytes(), torch.zeros(5))
    offset, size = struct.unpack("=QQ", good[8:24])
    copy = tmp_path / "copy"
    copy.write_bytes(
        good[:8] + struct.pack("=QQ", 96, size) + good[24:64] + bytes(32) + good[offset:]
    )
    with pytest.raises(ArchiveError, match="a tensor is outside"):
        open_file(copy)


def test_a_file_larger_than_the_memory_that_a_process_may_map(
    file: Path, tmp_path: Path, open_file: Callable[[Path], Rows]
) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(file.read_bytes())
    os.truncate(copy, 1 << 40)  # without blocks
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 39, before[1]))
    try:
        with pytest.raises(ArchiveError, match="the file cannot be mapped"):
            open_file(copy)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_what_is_no_file(tmp_path: Path, open_file: Callable[[Path], Rows]) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    (tmp_path / "short").write_bytes(b"cnclip-1" * 7)
    for name in ("", "pipe", "none", "empty", "short"):
        path = tmp_path / name
        with pytest.raises(ArchiveError) as refused:
            open_file(path)
        assert str(refused.value.where.file) == str(path)
