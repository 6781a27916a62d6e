"""Hits in archives and tables, opened again by their ids."""

from __future__ import annotations

import os
import re
import tarfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnclip import bulk, load_image, pipeline
from cnclip.assets import asset_path
from cnclip.bulk import lookup
from cnclip.cli import main
from cnclip.datasets import write_split
from cnclip.errors import ImageError
from tests.support.search import run_json

pytest.importorskip("faiss", reason="faiss-cpu is not installed, cnclip's extra `search`")
pyarrow = pytest.importorskip("pyarrow", reason="cnclip's extra `search` is not installed")
pytest.importorskip("pyarrow.parquet")

GALLERY = asset_path("gallery")


def test_images_in_archives_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [GALLERY / f"{code}.png" for code in ("1f408", "1f697", "1f382")]
    with tarfile.open(tmp_path / "some.tar", "w") as tar:
        tar.add(images[0], "cat.png")
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.write(images[1], "inner/car.png")
    table = pyarrow.table({"image": [images[2].read_bytes()]})
    pyarrow.parquet.write_table(table, tmp_path / "some.parquet")
    write_split(tmp_path, "test", [(7, (GALLERY / "1f98a.png").read_bytes())], [(0, "狐狸", [7])])
    names = ("some.tar", "some.zip", "some.parquet", "test_imgs.tsv")
    sources = [tmp_path / name for name in names]
    bulk.embed(sources, pipeline(model="emoji-cn", device="cpu"), tmp_path / "out")
    path = tmp_path / "some.index"
    assert main(["index", str(tmp_path / "out"), "-o", str(path), "--device", "cpu"]) == 0
    capsys.readouterr()
    answer = run_json(capsys, str(path), "猫")
    ids = {Path(one["path"]).name: one["id"] for one in answer}
    assert ids == {
        "some.tar": f"{tmp_path / 'some.tar'}:cat",
        "some.zip": f"{tmp_path / 'some.zip'}:inner/car.png",
        "some.parquet": f"{tmp_path / 'some.parquet'}:1",
        "test_imgs.tsv": "7",
    }
    query = ["search", str(path), "猫", "--device", "cpu"]
    assert main([*query, "--html", str(tmp_path / "found.html")]) == 0
    text = (tmp_path / "found.html").read_text("utf-8")
    assert len(re.findall(r'src="data:image/webp;base64,', text)) == 4
    assert "href" not in text and "some.zip:inner/car.png" in text
    # What was changed since is no image of that id any more, and nothing else is lost.
    (tmp_path / "some.zip").write_bytes(b"no zip")
    (tmp_path / "some.tar").unlink()
    assert main([*query, "--html", str(tmp_path / "found.html")]) == 0
    text = (tmp_path / "found.html").read_text("utf-8")
    assert len(re.findall(r'src="data:image/webp;base64,', text)) == 2
    assert text.count("<span>?</span>") == 2
    for wrong in (f"{tmp_path / 'some.parquet'}:2", "8"):
        holder = tmp_path / ("test_imgs.tsv" if wrong == "8" else "some.parquet")
        with pytest.raises(ImageError, match=re.escape(wrong)):
            bulk.open_recorded(wrong, str(holder))
    image = bulk.open_recorded("7", str(tmp_path / "test_imgs.tsv"))
    assert np.array_equal(image, load_image(GALLERY / "1f98a.png"))


def test_a_fifo_in_a_images_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cat.png")
    os.mkfifo(tmp_path / "some.tar")
    for path in (tmp_path / "cat.png", tmp_path / "some.tar"):
        with pytest.raises(ImageError, match=f"{path}: .*not a file"):
            bulk.open_recorded("cat", str(path))
    with pytest.raises(ImageError, match="no such file"):
        bulk.open_recorded("dog", str(tmp_path / "dog.png"))


def test_an_archive_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "some.tar"
    with tarfile.open(path, "w") as tar:
        for code in ("1f408", "1f697", "1f382"):
            tar.add(GALLERY / f"{code}.png", f"{code}.png")
    listed: list[str] = []
    open_sources = lookup.open_sources

    def counted(path: str, **options: Any) -> Any:
        listed.append(path)
        time.sleep(0.05)
        return open_sources(path, **options)

    monkeypatch.setattr(lookup, "open_sources", counted)
    ids = [f"{path}:{code}" for code in ("1f408", "1f697", "1f382")] * 4
    with ThreadPoolExecutor(4) as threads:
        sizes = {one.size for one in threads.map(lambda id: bulk.open_recorded(id, str(path)), ids)}
    assert len(sizes) == 1 and listed == [str(path)]
    monkeypatch.setattr(lookup, "MAX_ARCHIVE", 2)
    os.utime(path, (1, 1))
    for id in ids:
        with pytest.raises(ImageError, match="more than 2 images"):
            bulk.open_recorded(id, str(path))
    assert len(listed) == 2
