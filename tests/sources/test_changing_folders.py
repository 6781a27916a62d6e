"""Folders that change while they are read: each file that changes costs itself only."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from cnclip.bulk.items import open_sources
from cnclip.errors import ImageError
from tests.support.layouts import png


def make_folder(place: Path) -> Path:
    for name in ("a", "b", "c", "d"):
        (place / name).mkdir(parents=True)
        (place / name / "1.png").write_bytes(png(0))
    for name in ("e.png", "f.png", "g.png", "h.png", "i.png"):
        (place / name).write_bytes(png(1))
    return place


def change(place: Path) -> None:
    """Remove a folder and a file; replace others by a file, a folder, a FIFO and a loop."""
    shutil.rmtree(place / "b")
    shutil.rmtree(place / "c")
    (place / "c").write_bytes(png(2))
    for name in ("e.png", "f.png", "g.png", "h.png"):
        (place / name).unlink()
    (place / "f.png").mkdir()
    (place / "f.png" / "2.png").write_bytes(png(3))
    os.mkfifo(place / "g.png")
    (place / "h.png").symlink_to("h.png")


def test_while_it_is_listed(tmp_path: Path) -> None:
    place = make_folder(tmp_path / "photos")
    items = open_sources(place).items()
    found = {(first := next(items)).id: first}
    change(place)
    found |= {item.id: item for item in items}
    good = {id for id, item in found.items() if item.error is None}
    assert good == {"a/1.png", "c", "d/1.png", "f.png/2.png", "i.png"}
    errors = {id: item.error or "" for id, item in found.items() if id not in good}
    assert errors.keys() == {"b", "e.png", "g.png", "h.png"}
    assert errors["b"] == errors["e.png"] == "no such file"
    assert "a FIFO" in errors["g.png"] and "Too many levels" in errors["h.png"]


def test_before_its_files_are_read(tmp_path: Path) -> None:
    place = make_folder(tmp_path / "photos")
    items = {item.id: item for item in open_sources(place).items()}
    change(place)
    reasons = {}
    for id, item in items.items():
        assert item.image is not None
        try:
            item.image.read()
        except ImageError as error:
            reasons[id] = error.reason
    assert set(items) - set(reasons) == {"a/1.png", "d/1.png", "i.png"}
    assert reasons["f.png"] == "a folder, not a file"
    assert reasons["g.png"] == "a FIFO, not a file"
    # A folder that became a file has no files any more.
    assert reasons["b/1.png"] == reasons["e.png"] == "no such file"
    assert reasons["c/1.png"] in ("no such file", "Not a directory")


@pytest.mark.parametrize("seconds", [-5, 0, 2**33])
def test_times_of_files(seconds: int, tmp_path: Path) -> None:
    place = make_folder(tmp_path / "photos")
    for path in place.rglob("*.png"):
        os.utime(path, (seconds, seconds))
    items = list(open_sources(place).items())
    assert len(items) == 9 and all(item.error is None for item in items)
    assert {item.mtime_ns for item in items} == {seconds * 10**9}
