"""The targets of the Python fuzzers on their seeds, and inputs that fuzzers have found."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cnclip._files import read_at_most
from cnclip.archive import read_archive
from cnclip.bulk.folder import load_lines, read_npy
from cnclip.bulk.items import open_sources
from cnclip.errors import ArchiveError, DatasetError, EmbeddingsError, ImageError, IndexFileError
from cnclip.search import Index
from cnclip.search.index_file import MAGIC, read_description
from cnclip.sources import images
from cnclip.sources.lmdb_files import _parse_pair
from cnclip.sources.zip_files import ZipImages, open_zip
from tests.fuzz import fuzz_files, fuzz_models, fuzz_target, fuzz_twins

# Not the server, which takes seconds to open.
TARGETS = fuzz_files.TARGETS | fuzz_models.TARGETS | fuzz_twins.TARGETS
# Their seeds lack most tensors of a model, so as to be small.
PARTIAL = ("pickle", "safetensors")
CORPUS = Path(__file__).parent / "corpus"


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(url: str) -> bytes:
        raise ImageError(url)

    monkeypatch.setattr(images, "fetch", refuse)
    monkeypatch.setattr(fuzz_target, "MAX_SECONDS", 60.0)  # the first use of a module takes long


@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:DeprecationWarning")
@pytest.mark.parametrize("name", TARGETS)
def test_seeds(name: str) -> None:
    """Each target runs, and accepts some of its seeds."""
    target = TARGETS[name]
    seeds = [*target.seeds(), *(path.read_bytes() for path in (CORPUS / name).glob("*"))]
    accepted = sum(target.check(seed) for seed in seeds)
    assert seeds
    assert accepted or name in PARTIAL
    target.check(b"")


def test_a_target_without_a_promise_kept() -> None:
    def fail(content: bytes) -> None:
        raise DatasetError("bad \x07")

    target = fuzz_target.Target(fail, errors=(DatasetError,))
    with pytest.raises(fuzz_target.Finding, match="without a file"):
        target.check(b"")
    with pytest.raises(DatasetError):
        fuzz_target.Target(fail).check(b"")


# What they have found.


@pytest.mark.parametrize(
    "value",
    [
        b"\x80\x04K\x01r\xff\xff\xff\x7f.",  # a memo of 2^32 places
        b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b".",  # a bytearray
        b"\x80\x02}" + b"K\x01\x85" + b"2\x86" * 64 + b"K\x01s.",  # a key that takes ages to hash
    ],
)
def test_pickled_pairs_that_take_all_memory(value: bytes) -> None:
    assert _parse_pair(value) is None


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickled_pairs_of_every_protocol(protocol: int) -> None:
    for pair in ((1, 2, "一只猫"), ("a", 7, "b" * 300), (1 << 40, -1, "")):
        assert _parse_pair(pickle.dumps(pair, protocol)) == pair


def test_reading_allocates_no_more_than_there_is() -> None:
    class Stream(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert size is not None and 0 < size <= 1 << 20
            return super().read(size)

    assert read_at_most(Stream(b"x" * 3_000_000), 3_000_000) == b"x" * 3_000_000
    assert read_at_most(Stream(b"x" * 3_000_001), 3_000_000) is None


def zip_of(method: int, name: str = "a/1.png", content: bytes = b"\x89PNG\r\n\x1a\n") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        file.writestr(name, content)
    return stream.getvalue()


def test_a_member_without_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    content = zip_of(zipfile.ZIP_STORED, "图.png")
    path.write_bytes(content.replace("图".encode(), b"\0ab"))
    with zipfile.ZipFile(path) as file:
        assert file.namelist() == [""]
    assert ZipImages.of(path, "a.zip").ids == []


def with_dictionary(content: bytes, size: int) -> bytes:
    """A zip whose only member claims a dictionary of LZMA."""
    at = 30 + sum(struct.unpack("<26x2H", content[:30])) + 5
    return content[:at] + struct.pack("<I", size) + content[at + 4 :]


def test_lzma_that_claims_all_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    good = zip_of(zipfile.ZIP_LZMA)
    path.write_bytes(good)
    assert ZipImages.of(path, "a.zip").content(0).startswith(b"\x89PNG")
    path.write_bytes(with_dictionary(good, 0xFFFFFFFF))
    with pytest.raises(DatasetError, match="claims 4294967295 bytes of memory"), open_zip(path):
        pass


def test_lzma_that_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    good = zip_of(zipfile.ZIP_LZMA, content=b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9)
    path.write_bytes(good[:60] + b"\xff" * 60 + good[120:])
    with pytest.raises((lzma.LZMAError, zipfile.BadZipFile)), zipfile.ZipFile(path) as file:
        file.read(file.infolist()[0])
    store = ZipImages.of(path, "a.zip")
    assert len(store.ids) == 1
    with pytest.raises(ImageError, match="cannot be read in the zip"):
        store.content(0)


def test_an_archive_that_claims_all_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.cnclip.pt"
    path.write_bytes(with_dictionary(zip_of(zipfile.ZIP_LZMA, "a/extra/cnclip.json"), 0xFFFFFFFF))
    with pytest.raises(ArchiveError, match="claims 4294967295 bytes"):
        read_archive(path)


def test_an_archive_with_lzma(tmp_path: Path) -> None:
    path = tmp_path / "a.cnclip.pt"
    path.write_bytes(zip_of(zipfile.ZIP_LZMA, "a/extra/cnclip.json"))
    with pytest.raises(ArchiveError, match="compressed in another way"):
        read_archive(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_that_claim_more_than_the_file_has(tmp_path: Path, method: int) -> None:
    good = zip_of(method, "a/extra/cnclip.json")
    at = good.index(b"PK\x01\x02") + 20
    claim = struct.pack("<I", 1 << 31) + good[at + 4 : at + 8]
    path = tmp_path / "a.cnclip.pt"
    path.write_bytes(good[:at] + claim + good[at + 8 :])
    with pytest.raises(ArchiveError, match="claims 2147483648 bytes, the file has"):
        read_archive(path)
    with pytest.raises(DatasetError, match="claims 2147483648 bytes, the file has"), open_zip(path):
        pass


def test_lines_that_are_not_utf8(tmp_path: Path) -> None:
    """In the names of columns, and in texts."""
    pytest.importorskip("pyarrow")
    manifest = fuzz_models._manifest()
    shard = manifest.shards[0]
    seed = next(one for one in fuzz_models._shards() if one[:1] == b"\1")[1:]
    path = tmp_path / f"{shard.name}.parquet"
    path.write_bytes(seed)
    assert load_lines(tmp_path, shard).num_rows == 2
    for good, bad in ((b"caption", b"cap\xffion"), ("图".encode(), b"\xff" * 3)):
        assert good in seed
        path.write_bytes(seed.replace(good, bad))
        with pytest.raises(EmbeddingsError, match="damaged"):
            load_lines(tmp_path, shard)


@pytest.mark.parametrize(
    "value", ["file:///a\udce7b", "file:///\ud800", "file:///%00", "FILE:a\udcff"]
)
def test_file_urls_that_are_not_utf8(tmp_path: Path, value: str) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(value.encode("utf-8", "surrogatepass") + b"\n1.png\n")
    items = list(open_sources(path).items())
    assert len(items) == 2
    assert items[0].error is not None


@pytest.mark.parametrize(
    "damage",
    [
        lambda good: good.replace(b"'shape'", b"('shape"),  # NumPy parses it as Python
        lambda good: good[:6] + b"\2\0" + b"\xff\xff\xff\x7f" + good[10:],  # a header of 2 GB
    ],
)
def test_headers_of_npy(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((2, 3), np.float32))
    np.testing.assert_array_equal(read_npy(path), np.zeros((2, 3)))
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    tracemalloc.start()
    try:
        with pytest.raises(ValueError):
            read_npy(path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "parts",
    [
        {"vectors": {"bytes": 0.0, "sha256": ""}, "items": {"bytes": 0, "sha256": ""}},
        {"vectors": {"bytes": -1, "sha256": ""}, "items": {"bytes": 1, "sha256": ""}},
        {"vectors": {"bytes": 0, "sha256": ""}, "items": {"bytes": 0}},
    ],
)
def test_descriptions_of_indexes(tmp_path: Path, parts: object) -> None:
    text = json.dumps({"format": 1, "parts": parts}).encode()
    trailer = MAGIC + len(text).to_bytes(8, "little") + hashlib.sha256(text).digest()
    path = tmp_path / "a.index"
    path.write_bytes(text + trailer)
    with pytest.raises(IndexFileError, match="description"):
        read_description(path)
    with pytest.raises(IndexFileError):
        Index.load(path)


@pytest.mark.parametrize("mapped", [True, False])
def test_vectors_of_another_kind(tmp_path: Path, mapped: bool) -> None:
    index = Index.create(4, kind="exact", model=None)
    index.add(np.eye(3, 4, dtype=np.float32), ["a", "b", "c"])
    index.save(tmp_path / "good.index")
    content = (tmp_path / "good.index").read_bytes()
    size = int.from_bytes(content[-40:-32], "little")
    text = content[-48 - size : -48]
    path = tmp_path / "a.index"
    for kind in ("hnsw", "ivfpq", "exact"):
        other = text.replace(b'"kind": "exact"', f'"kind": "{kind}"'.encode())
        trailer = MAGIC + len(other).to_bytes(8, "little") + hashlib.sha256(other).digest()
        path.write_bytes(content[: -48 - size] + other + trailer)
        if kind == "exact":
            assert len(Index.load(path, mapped=mapped)) == 3
            continue
        with pytest.raises(IndexFileError, match=f"{kind} vectors expected, got .* IndexFlatIP"):
            Index.load(path, mapped=mapped)
