"""Images that are too large or empty, in each kind of source: named, and the others are read."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cnclip.bulk.items import open_sources
from cnclip.errors import ImageError
from cnclip.sources import images, tar_files, zip_files
from tests.support.layouts import png

LIMIT = 400
CONTENTS = {"a.png": png(0), "b.png": png(1) + bytes(LIMIT), "c.png": b"", "d.png": png(2)}


def make_folder(place: Path) -> Path:
    place.mkdir()
    for name, content in CONTENTS.items():
        (place / name).write_bytes(content)
    return place


def make_zip(place: Path) -> Path:
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in CONTENTS.items():
            file.writestr(name, content)
    return place


def make_tar(place: Path, mode: str = "w") -> Path:
    with tarfile.open(place, mode) as file:  # type: ignore[call-overload]
        for name, content in CONTENTS.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return place


SOURCES: dict[str, Callable[[Path], Path]] = {
    "folder": make_folder,
    "a.zip": make_zip,
    "a.tar": make_tar,
    "a.tar.gz": lambda place: make_tar(place, "w:gz"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_sizes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = SOURCES[name](tmp_path / name)
    for module in (images, tar_files, zip_files):
        monkeypatch.setattr(module, "MAX_FILE", LIMIT)
    read, refused = [], {}
    for item in open_sources(place).items():
        short = Path(item.id.rpartition(":")[2]).stem
        try:
            content = item.image.read() if item.image is not None else b""
        except ImageError as error:
            refused[short] = error.reason
        else:
            if item.error is not None:
                refused[short] = item.error
            elif content:
                read.append(bytes(content))
    assert read == [CONTENTS["a.png"], CONTENTS["d.png"]]
    assert "more than 400 bytes" in refused["b"]
    assert "empty file" in refused.get("c", "an empty file")
