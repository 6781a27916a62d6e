"""The file of an index: written, mapped, damaged, on a full disk."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnclip.errors import CnclipError, IndexFileError, IndexNotFoundError
from cnclip.search import Index, index_file
from cnclip.search.items import ItemTable
from tests.support.search import DIM, KINDS, MODEL, made, names, unit

faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed, cnclip's extra `search`")
pytest.importorskip("pyarrow.parquet", reason="cnclip's extra `search` is not installed")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("this user may not mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_an_index_comes_back_as_it_was(kind: str, mapped: bool, tmp_path: Path) -> None:
    rows = unit(1000, clusters=10)
    index = Index.create(
        DIM,
        model=MODEL,
        precision="bf16",
        contents="texts",
        temperature=0.02,
        kind=kind,
        sample=rows,
    )
    paths = ["/photos/\udcff 猫.png", "http://example.com/1.jpg"] * 500
    index.add(rows, names(1000), paths, [f"第{number}句" for number in range(1000)])
    index.remove(["7"])
    index.save(tmp_path / "it.index")
    loaded = Index.load(tmp_path / "it.index", mapped=mapped)
    for name in ("kind", "dim", "model", "precision", "contents", "temperature", "measured"):
        assert getattr(loaded, name) == getattr(index, name), name
    assert loaded.thresholds == index.thresholds and set(loaded.thresholds) == {"text"}
    assert len(loaded) == 999 and loaded.ids() == index.ids()
    queries = unit(10, seed=1, clusters=10)
    assert loaded.search(queries) == index.search(queries)
    hit = loaded.search(rows[0], 1)[0][0]
    assert (hit.path, hit.text, hit.id) == ("/photos/\udcff 猫.png", "第0句", "0")
    assert sum(hit.probability or 0 for hit in loaded.search(queries)[0]) == pytest.approx(1)
    loaded.add(unit(1, seed=2), ["more"])  # of a mapped one, copied first
    assert loaded.search(unit(1, seed=2), 1)[0][0].id == "more"
    loaded.save(tmp_path / "it.index")
    assert "more" in Index.load(tmp_path / "it.index").ids()
    assert [path.name for path in tmp_path.iterdir()] == ["it.index"]


def test_faiss_opens_the_file_itself(tmp_path: Path) -> None:
    rows = unit(100)
    made(rows).save(tmp_path / "it.index")
    alone = faiss.read_index(str(tmp_path / "it.index"))
    assert alone.search(rows[:3], 1)[1].ravel().tolist() == [0, 1, 2]


def test_a_mapped_index_takes_no_memory_of_its_own(tmp_path: Path, run_python: Any) -> None:
    rows = unit(40_000, 256)
    made(rows).save(tmp_path / "it.index")
    made(rows[:99]).save(tmp_path / "small.index")
    code = (
        "import sys\n"
        "from cnclip.search import Index\n"
        "def own():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return next(int(l.split()[1]) >> 10 for l in lines if l.startswith('RssAnon'))\n"
        "Index.load(sys.argv[2]).search([[1.0] + [0.0] * 255])\n"  # what the libraries take
        "before = own()\n"
        "index = Index.load(sys.argv[1])\n"
        "index.search([[1.0] + [0.0] * 255])\n"
        "print(own() - before)\n"
    )
    if os.environ.get("CNCLIP_SANITIZE") or not Path("/proc/self/status").exists():
        pytest.skip("memory is not what is measured here")
    assert int(run_python(code, *sorted(tmp_path.iterdir())).stdout) < 20  # of 41 MB


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "short": lambda content: content[:20],
    "cut": lambda content: content[:-1],
    "half": lambda content: content[: len(content) // 2],
    "other": lambda content: b"\x89PNG" * 100,
    "vectors": lambda content: content[:999] + bytes([content[999] ^ 1]) + content[1000:],
    "beginning": lambda content: bytes(8) + content[8:],
    "items": lambda content: content.replace(b"ARROW1", b"ARROW2", 1),
    "description": lambda content: content.replace(b'"some"', b'"same"'),
    "hole": lambda content: content[:3000] + content[4000:],
    "version": lambda content: reformatted(content, {"format": 99}),
    "nothing": lambda content: reformatted(content, {"parts": None}),
    "length": lambda content: content[:-40] + b"\xff" * 8 + content[-32:],
}


def reformatted(content: bytes, changes: dict[str, Any]) -> bytes:
    """An index with another description, whose checksum is right."""
    length = int.from_bytes(content[-40:-32], "little")
    start = len(content) - 48 - length
    text = json.dumps({**json.loads(content[start:-48]), **changes}).encode()
    trailer = content[-48:-40] + len(text).to_bytes(8, "little") + hashlib.sha256(text).digest()
    return content[:start] + text + trailer


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_index_is_refused_by_name(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "it.index"
    made(unit(100)).save(path)
    whole = path.read_bytes()
    damaged = DAMAGE[damage](whole)
    assert damaged != whole
    path.write_bytes(damaged)
    with pytest.raises(IndexFileError, match=r"it\.index: ") as raised:
        Index.load(path)
    assert isinstance(raised.value, ValueError) and isinstance(raised.value, CnclipError)
    path.write_bytes(whole)
    assert len(Index.load(path)) == 100


def test_an_index_of_earlier_versions_has_images(tmp_path: Path) -> None:
    path = tmp_path / "it.index"
    index = made(unit(20))
    index.save(path)
    path.write_bytes(reformatted(path.read_bytes(), {"contents": "pictures"}))
    earlier = Index.load(path)
    assert earlier.contents == "images" and earlier.thresholds == index.thresholds


def test_what_is_no_index_is_said(tmp_path: Path) -> None:
    with pytest.raises(IndexNotFoundError, match=r"no\.index: no such index") as raised:
        Index.load(tmp_path / "no.index")
    assert isinstance(raised.value, FileNotFoundError)
    with pytest.raises(IndexFileError, match="a folder, not an index"):
        Index.load(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(IndexFileError, match="fifo: expected an index file"):
        Index.load(tmp_path / "fifo")


def test_names_need_not_be_utf8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff\xfe.index")
    made(unit(20)).save(path)
    index = Index.load(str(path))
    assert index.search(unit(1), 1)[0][0].id == "0"
    index.save(path)
    assert os.listdir(os.fsencode(tmp_path)) == [b"\xff\xfe.index"]


def test_a_full_disk_leaves_what_was_there(small_disk: Path) -> None:
    path = small_disk / "it.index"
    index = made(unit(500))
    index.save(path)
    before = path.read_bytes()
    for number, count in enumerate((1200, 20_000)):  # full in a buffer, and in a large write
        index.add(unit(count, seed=2 + number), names(count, 1000 + 10_000 * number))
        with pytest.raises(OSError, match=r"No space left on device: '.*it\.index'"):
            index.save(path)
        assert path.read_bytes() == before
        assert [one.name for one in small_disk.iterdir()] == ["it.index"]
    assert len(Index.load(path)) == 500


def test_a_read_only_folder_is_named(small_disk: Path) -> None:
    path = small_disk / "it.index"
    made(unit(50)).save(path)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    index = Index.load(path)
    index.add(unit(1, seed=1), ["more"])
    with pytest.raises(OSError, match=r"Read-only file system: '.*/it\.index'"):
        index.save(path)
    assert len(Index.load(path)) == 50


def test_an_interrupted_save_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "it.index"
    index = made(unit(50))
    index.save(path)
    before = path.read_bytes()

    def interrupted(self: Any) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr("cnclip.search.items.ItemTable.to_bytes", interrupted)
    index.add(unit(1, seed=1), ["more"])
    with pytest.raises(KeyboardInterrupt):
        index.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def written_in_place(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[1000:2000] = bytes(1000)
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(1, 1))  # the clock of the file system may be coarse


CHANGES: dict[str, Callable[[Path], None]] = {
    "truncated": lambda path: os.truncate(path, 100),
    "emptied": lambda path: os.truncate(path, 0),
    "written": written_in_place,
}
USES: dict[str, Callable[[Index], object]] = {
    "search": lambda index: index.search(unit(1, seed=3)),
    "search_exactly": lambda index: index.search_exactly(unit(1, seed=3)),
    "ids": lambda index: index.ids(),
    "item": lambda index: index.item(index.ids()[0]),
    "add": lambda index: index.add(unit(1, seed=2), ["more"]),
    "remove": lambda index: index.remove(index.ids()[:1]),
    "save": lambda index: index.save(str(index.path) + ".copy"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("use", USES)
def test_a_file_that_is_changed_in_place(tmp_path: Path, use: str, change: str) -> None:
    path = tmp_path / "it.index"
    made(unit(3000, DIM)).save(path)
    index = Index.load(path)
    index.search(unit(1, seed=3))
    CHANGES[change](path)
    with pytest.raises(IndexFileError, match="changed in place") as raised:
        USES[use](index)
    assert raised.value.where is not None and raised.value.where.file == str(path)


@pytest.mark.parametrize("change", CHANGES)
def test_an_index_in_memory_does_not_need_its_file(tmp_path: Path, change: str) -> None:
    path = tmp_path / "it.index"
    made(unit(3000, DIM)).save(path)
    index = Index.load(path, mapped=False)
    before = index.search(unit(1, seed=3))
    CHANGES[change](path)
    assert index.search(unit(1, seed=3)) == before
    assert len(index.ids()) == 3000


def test_a_file_that_is_replaced_while_it_is_open(tmp_path: Path) -> None:
    path = tmp_path / "it.index"
    made(unit(300, DIM)).save(path)
    index = Index.load(path)
    before = index.search(unit(1, seed=3))
    made(unit(10, DIM, seed=9)).save(path)
    assert index.search(unit(1, seed=3)) == before


def test_checksums_are_compared_unless_asked_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "it.index"
    made(unit(300, DIM)).save(path)
    content = path.read_bytes()
    path.write_bytes(DAMAGE["vectors"](content))
    with pytest.raises(IndexFileError, match="vectors do not match"):
        Index.load(path)
    assert len(Index.load(path, check=False)) == 300


@pytest.mark.parametrize("changes", [{"dim": DIM + 1}, {"removed": [300]}, {"removed": ["x"]}])
def test_a_description_of_another_index(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "it.index"
    made(unit(300, DIM)).save(path)
    path.write_bytes(reformatted(path.read_bytes(), changes))
    with pytest.raises(IndexFileError, match=r"it\.index: cannot be read as an index"):
        Index.load(path)


def test_items_of_other_columns(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    index = made(unit(3))
    good = np.frombuffer(index._items.to_bytes(), np.uint8)
    assert ItemTable.from_buffer(good).ids() == ["0", "1", "2"]
    with pytest.raises(ValueError, match="Arrow file"):
        ItemTable.from_buffer(np.zeros(64, np.uint8))
    other = ItemTable(arrow.table({"id": ["a"]}))
    with pytest.raises(ValueError, match="columns with other names or types"):
        ItemTable.from_buffer(np.frombuffer(other.to_bytes(), np.uint8))


@pytest.mark.parametrize("mapped", [True, False])
def test_a_file_that_is_truncated_while_it_is_opened(
    tmp_path: Path, mapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "it.index"
    made(unit(300, DIM)).save(path)
    description = index_file.read_description(path)
    size = path.stat().st_size
    os.truncate(path, 1000)
    with pytest.raises(IndexFileError, match="changed in place"):
        index_file.IndexParts(path, description, mapped=mapped)
    # Between the look at its size and reading it.
    monkeypatch.setattr(index_file, "_state", lambda descriptor: (size, 0))
    with pytest.raises(IndexFileError, match="changed in place"):
        index_file.IndexParts(path, description, mapped=mapped)
