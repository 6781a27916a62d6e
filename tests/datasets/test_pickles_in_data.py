"""Pairs in an LMDB are pickles, which can hold programs: none is run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from cnclip.sources import lmdb_files
from cnclip.sources.rows import Problems

lmdb = pytest.importorskip("lmdb")


class Program:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def write(place: Path, values: dict[bytes, bytes]) -> Path:
    with lmdb.open(str(place), map_size=1 << 24) as env, env.begin(write=True) as put:
        for key, value in values.items():
            put.put(key, value)
    return place


def test_nothing_is_run(tmp_path: Path) -> None:
    target = tmp_path / "made"
    good = pickle.dumps((7, 8, "good"))
    values = {
        b"0": pickle.dumps(Program(target)),
        b"1": pickle.dumps((1, 2, Program(target))),
        b"2": b"P5\n.",  # a persistent id
        b"3": pickle.dumps((1, 2, 3)),
        b"4": pickle.dumps(([], 2, "text")),
        b"5": pickle.dumps((1, {}, "text")),
        b"6": pickle.dumps([1, 2, "text"]),
        b"7": good[:-1],
        b"8": b"",
        b"81": pickle.dumps((1, 2, "text", "more")),
        b"82": good[:-1] + b"r\xff\xff\xff\x7f.",  # a memo of two billion places
        b"9": good,
    }
    problems = Problems()
    place = write(tmp_path / "pairs", values)
    assert [pair[1:] for pair in lmdb_files.read_pairs(place, "pairs", problems)] == [
        (7, 8, "good")
    ]
    assert len(problems.drain()) == 11
    assert not target.exists()


def test_long_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_files, "_MAX_PAIR", 100)
    place = write(tmp_path / "pairs", {b"0": pickle.dumps((1, 2, "a" * 100))})
    problems = Problems()
    assert list(lmdb_files.read_pairs(place, "pairs", problems)) == []
    assert len(problems.drain()) == 1
