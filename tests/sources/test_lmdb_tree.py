"""LMDB files, as liblmdb writes and reads them, and damaged ones."""

from __future__ import annotations

import os
import random
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cnclip.sources.lmdb_tree import LmdbTree

lmdb = pytest.importorskip("lmdb")

PAGE = 4096
ANY = 1 << 30
# Sizes of values, some of which need separate pages.
SIZES = (0, 1, 60, 2000, 2010, 2020, 2030, 2040, 4080, 4081, 9000)


@pytest.fixture
def page_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """liblmdb takes the machine's."""
    if os.sysconf("SC_PAGE_SIZE") != PAGE:
        pytest.skip("the offsets are those of pages of 4096 bytes")


def write(place: Path, rounds: list[dict[bytes, bytes]], keep: int = 2) -> Path:
    """Transactions, each of which removes one of `keep` entries of the former."""
    with lmdb.open(str(place), map_size=1 << 26) as env:
        for values in rounds:
            with env.begin(write=True) as put:
                for key in [key for key, _ in put.cursor()][::keep]:
                    put.delete(key)
                for key, value in values.items():
                    put.put(key, value)
    return place / "data.mdb"


def by_liblmdb(path: Path) -> list[tuple[bytes, bytes]]:
    with lmdb.open(str(path.parent), readonly=True, lock=False) as env, env.begin() as get:
        return list(get.cursor())


def entries_of(path: Path, max_value: int = ANY) -> list[tuple[bytes, bytes | None]]:
    with path.open("rb") as file:
        return list(LmdbTree(file.fileno()).entries(max_value))


def found_in(path: Path, key: bytes, max_value: int = ANY) -> tuple[bool, bytes | None]:
    with path.open("rb") as file:
        return LmdbTree(file.fileno()).find(key, max_value)


def some(count: int, seed: int, sizes: tuple[int, ...] = SIZES) -> dict[bytes, bytes]:
    rng = random.Random(seed)
    return {
        rng.randbytes(rng.randint(1, 60)): rng.randbytes(rng.choice(sizes)) for _ in range(count)
    }


@pytest.mark.parametrize("count", [0, 1, 3, 40, 700])
def test_entries_as_liblmdb_reads_them(tmp_path: Path, count: int) -> None:
    path = write(tmp_path, [some(count, seed) for seed in range(3)])
    wanted = by_liblmdb(path)
    assert len(wanted) >= count
    assert entries_of(path) == wanted
    assert entries_of(path, 2020) == [
        (key, value if len(value) <= 2020 else None) for key, value in wanted
    ]
    for key, value in wanted:
        assert found_in(path, key) == (True, value)
        assert found_in(path, key, len(value) - 1) == (True, None)
    present = dict(wanted)
    for key in (b"\0", b"\xff" * 70, *(key + b"\0" for key, _ in wanted), *some(50, 9)):
        assert found_in(path, key) == (key in present, present.get(key))


def test_a_deep_tree(tmp_path: Path) -> None:
    path = write(tmp_path, [{b"%0400d" % number: b"%d" % number for number in range(900)}], 1)
    with lmdb.open(str(tmp_path), readonly=True, lock=False) as env:
        assert env.stat()["depth"] >= 4
    assert [value for _, value in entries_of(path)] == [b"%d" % number for number in range(900)]
    assert found_in(path, b"%0400d" % 450) == (True, b"450")
    assert found_in(path, b"%0400d" % 900) == (False, None)


def test_the_last_transaction_while_another_process_writes(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path), map_size=1 << 22) as env:
        for number in range(5):
            with env.begin(write=True) as put:
                put.put(b"key", b"%d" % number)
            assert found_in(tmp_path / "data.mdb", b"key") == (True, b"%d" % number)


# --- Damaged ones ---------------------------------------------------------------------------------


def pages_of(path: Path, kind: int) -> list[int]:
    """The offsets of the pages of a kind that the last transaction uses."""
    content = path.read_bytes()
    found = []
    for start in range(2 * PAGE, len(content), PAGE):
        number, flags = struct.unpack_from("<Q2xH", content, start)
        if number * PAGE == start and flags == kind:
            found.append(start)
    return found


BRANCH, LEAF, LONG = 1, 2, 4


@pytest.fixture
def database(tmp_path: Path, page_size: None) -> Path:
    """A branch with leaves, and two long values: written at once, so that each page is used."""
    values = {b"key%02d" % number: b"v" * 150 for number in range(60)}
    return write(tmp_path, [values | {b"long": b"x" * 9000, b"other": b"y" * 5000}])


def damage(path: Path, at: int, format: str, *values: Any) -> None:
    content = bytearray(path.read_bytes())
    struct.pack_into(format, content, at, *values)
    path.write_bytes(content)


def both_metas(path: Path, at: int, format: str, *values: Any) -> None:
    for start in (0, PAGE):
        damage(path, start + at, format, *values)


def first_node(path: Path, kind: int, number: int = 0) -> int:
    """The offset of a node of the first page of a kind."""
    page = pages_of(path, kind)[0]
    (offset,) = struct.unpack_from("<H", path.read_bytes(), page + 16 + 2 * number)
    return page + int(offset)


def node_of(path: Path, key: bytes) -> int:
    return path.read_bytes().rindex(key) - 8


def one_child(path: Path) -> None:
    """The branch has the first leaf twice."""
    first = path.read_bytes()[first_node(path, BRANCH) :][:6]
    damage(path, first_node(path, BRANCH, 1), "<6s", first)


def many_values(path: Path) -> None:
    """Entries of a few bytes that name a value of 100 pages each."""
    values = {b"key%02d" % number: b"v" * 5000 for number in range(20)}
    path.unlink()
    write(path.parent, [values | {b"long": b"x" * 100 * PAGE}])
    long = node_of(path, b"long")
    content = path.read_bytes()
    for key in values:
        damage(path, node_of(path, key), "<4s", content[long : long + 4])
        damage(path, node_of(path, key) + 8 + len(key), "<8s", content[long + 12 : long + 20])
    assert found_in(path, b"key07") == (True, b"x" * 100 * PAGE)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "magic": (lambda path: damage(path, 16, "<I", 7), "does not begin as an LMDB"),
    "second": (lambda path: damage(path, PAGE + 10, "<H", LEAF), "does not begin as an LMDB"),
    "version": (lambda path: both_metas(path, 20, "<I", 2), "version 2"),
    "page size": (lambda path: both_metas(path, 40, "<I", 0), "pages of 0 bytes"),
    "duplicates": (lambda path: both_metas(path, 92, "<H", 4), "flags 0x4"),
    "depth 0": (lambda path: both_metas(path, 94, "<H", 0), "depth 0"),
    "depth 33": (lambda path: both_metas(path, 94, "<H", 33), "depth 33"),
    "depth 1": (lambda path: both_metas(path, 94, "<H", 1), "is another one"),
    "depth 3": (lambda path: both_metas(path, 94, "<H", 3), "is another one"),
    "root": (lambda path: both_metas(path, 128, "<Q", 1 << 62), "should have"),
    "number": (lambda path: damage(path, pages_of(path, LEAF)[0], "<Q", 1), "is another one"),
    "lower": (lambda path: damage(path, pages_of(path, LEAF)[0] + 12, "<H", 15), "wrong borders"),
    "upper": (lambda path: damage(path, pages_of(path, LEAF)[0] + 14, "<H", 4097), "wrong borders"),
    "no child": (lambda path: damage(path, pages_of(path, BRANCH)[0] + 12, "<H", 16), "borders"),
    "node": (lambda path: damage(path, pages_of(path, LEAF)[0] + 16, "<H", 4089), "does not fit"),
    "key": (lambda path: damage(path, first_node(path, LEAF) + 6, "<H", 65535), "does not fit"),
    "value": (lambda path: damage(path, first_node(path, LEAF), "<H", 65535), "does not fit"),
    "order": (
        lambda path: damage(path, node_of(path, b"key00") + 8, "<5s", b"key99"),
        "not in order",
    ),
    "long number": (lambda path: damage(path, node_of(path, b"long") + 12, "<Q", 2), "another one"),
    "long header": (lambda path: damage(path, pages_of(path, LONG)[0], "<Q", 2), "another one"),
    "long kind": (lambda path: damage(path, pages_of(path, LONG)[0] + 10, "<H", 2), "another one"),
    "long pages": (
        lambda path: damage(path, pages_of(path, LONG)[0] + 12, "<I", 1),
        r"\d+ bytes in 1 pages",
    ),
    "no entry": (lambda path: damage(path, pages_of(path, LEAF)[0] + 12, "<H", 17), "borders"),
    "one child": (one_child, "not in order"),
    "values": (many_values, "use a page twice"),
    "empty": (lambda path: path.write_bytes(b""), "the file has 0 bytes"),
    "half": (
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        "should have",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_of_an_lmdb(database: Path, name: str) -> None:
    assert len(entries_of(database)) == 62
    change, message = DAMAGES[name]
    change(database)
    with pytest.raises(ValueError, match=message):
        entries_of(database)


def test_an_lmdb_that_is_cut_off_while_it_is_read(database: Path) -> None:
    with database.open("rb+") as file:
        tree = LmdbTree(file.fileno())
        file.truncate(3 * PAGE)
        with pytest.raises(ValueError, match="became shorter"):
            list(tree.entries(ANY))


def one_byte_off(content: bytes, rng: random.Random) -> Iterator[bytes]:
    """Damages of the numbers: the meta pages, the headers and the nodes."""
    for page in range(len(content) // PAGE):
        for _ in range(60):
            changed = bytearray(content)
            for _ in range(rng.choice((1, 1, 2))):
                place = rng.choice((rng.randrange(160), rng.randrange(PAGE - 400, PAGE)))
                changed[page * PAGE + place] = rng.choice((0, 1, 2, 4, 0xFF, rng.randrange(256)))
            yield bytes(changed)


def test_any_damage_of_an_lmdb(database: Path) -> None:
    refused = accepted = 0
    for content in one_byte_off(database.read_bytes(), random.Random(5)):
        database.write_bytes(content)
        for read in (entries_of, lambda path: found_in(path, b"key30")):
            try:
                read(database)
                accepted += 1
            except ValueError as error:
                assert re.fullmatch(r"[ -~]+", str(error))
                refused += 1
    assert refused > 50
    assert accepted > 50
