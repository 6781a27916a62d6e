"""Images that are not embedded again: of files that moved, or whose times alone changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from cnclip import bulk
from cnclip.bulk import earlier
from cnclip.bulk.items import open_sources
from cnclip.bulk.outcomes import Outcome
from cnclip.errors import EmbeddingsError
from tests.support.bulk import Embed, content_of, failed_of, vectors_of, write_zip


def touched(folder: Path) -> None:
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        os.utime(path, (number, number))


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the images that are read from now on."""
    reads: list[str] = []
    open_image = Outcome.open_image

    def counted(self: Outcome, *rest: Any) -> Any:
        reads.append(self.item.id)
        return open_image(self, *rest)

    monkeypatch.setattr(Outcome, "open_image", counted)
    return reads


def test_times_alone_are_no_change(
    photos: Path, embed: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(photos)
    before = vectors_of(tmp_path / "out")
    touched(photos)
    report = embed(photos)
    assert (report.embedded, report.kept) == (0, 20)
    after = vectors_of(tmp_path / "out")
    assert list(after) == list(before)
    assert all(np.array_equal(after[id], before[id]) for id in before)
    # The new times are recorded, so that the next run need not read the files.
    reads = count_reads(monkeypatch)
    assert embed(photos).kept == 20 and reads == []


def test_shards_are_read_on_many_threads(photos: Path, embed: Embed) -> None:
    embed(photos, shard_items=1)
    for _ in range(3):
        touched(photos)
        for path in photos.rglob("*.png"):
            os.utime(path, ns=(path.stat().st_mtime_ns + 1, path.stat().st_mtime_ns + 1))
        assert embed(photos, shard_items=1).kept == 20


def test_a_change_of_the_same_size_and_another_time(
    photos: Path, embed: Embed, tmp_path: Path
) -> None:
    first = next(iter(sorted(photos.glob("*.png"))))
    embed(photos)
    content = first.read_bytes()
    first.write_bytes(bytes(len(content)))
    os.utime(first, (1, 1))
    report = embed(photos)
    assert (report.kept, report.failed) == (19, 1)
    # A failure is that of the content as well.
    os.utime(first, (2, 2))
    report = embed(photos)
    assert (report.embedded, report.kept, report.failed) == (0, 19, 1)
    assert list(failed_of(tmp_path / "out")) == [first.name]


def test_a_folder_that_moved(
    photos: Path, embed: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(photos)
    before = vectors_of(tmp_path / "out")
    moved = tmp_path / "mnt" / "other"
    moved.parent.mkdir()
    photos.rename(moved)
    photos.mkdir()  # the place where a disk was mounted
    reads = count_reads(monkeypatch)
    report = embed(moved)
    assert (report.embedded, report.kept) == (0, 20) and reads == []
    assert list(vectors_of(tmp_path / "out")) == list(before)
    assert bulk.open_embeddings(tmp_path / "out").paths == [str(moved / id) for id in before]


def test_a_move_is_not_found_in_a_damaged_folder(
    photos: Path, embed: Embed, tmp_path: Path
) -> None:
    embed(photos)
    photos.rename(tmp_path / "moved")
    min((tmp_path / "out").glob("*.parquet")).write_bytes(b"damaged")
    with pytest.raises(EmbeddingsError, match=f"was made of {photos} as well"):
        embed(tmp_path / "moved")
    assert embed(tmp_path / "moved", replace=True).rows == 20


def test_several_folders_are_not_a_move(
    photos: Path, some: list[Path], embed: Embed, tmp_path: Path
) -> None:
    (tmp_path / "more").mkdir()
    shutil.copy(some[9], tmp_path / "more" / "a.png")
    embed([photos, tmp_path / "more"], ids="relative")
    photos.rename(tmp_path / "moved")
    with pytest.raises(EmbeddingsError, match=f"was made of {photos}, .* as well"):
        embed(tmp_path / "moved")


def test_items_whose_keys_are_equal_are_told_apart(
    photos: Path, embed: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys have 64 bits: those of different items may be equal."""
    monkeypatch.setattr(earlier, "_key", lambda *item: 7)
    monkeypatch.setattr(earlier, "_content_key", lambda sha256: 7)
    embed(photos)
    before = vectors_of(tmp_path / "out")
    first, second, *_ = sorted(photos.glob("*.png"))
    first.unlink()
    shutil.copy(second, first)
    report = embed(photos)
    assert (report.embedded, report.kept) == (0, 20)
    after = vectors_of(tmp_path / "out")
    assert all(
        np.array_equal(after[id], before[second.name if id == first.name else id]) for id in before
    )
    touched(photos)
    assert embed(photos).kept == 20
    assert all(np.array_equal(row, after[id]) for id, row in vectors_of(tmp_path / "out").items())


def test_a_copy_or_another_folder_is_not_a_move(
    photos: Path, some: list[Path], embed: Embed, tmp_path: Path
) -> None:
    embed(photos)
    before = content_of(tmp_path / "out")
    shutil.copytree(photos, tmp_path / "copy", copy_function=shutil.copy)
    with pytest.raises(EmbeddingsError, match=f"was made of {photos} as well; .*--replace"):
        embed(tmp_path / "copy")
    photos.rename(tmp_path / "moved")
    (tmp_path / "another").mkdir()
    shutil.copy(some[3], tmp_path / "another" / "a.png")
    with pytest.raises(EmbeddingsError, match=f"was made of {photos} as well"):
        embed(tmp_path / "another")
    assert content_of(tmp_path / "out") == before
    report = embed(tmp_path / "copy", replace=True)
    assert (report.embedded, report.kept) == (0, 20)


def test_files_that_are_renamed_or_archived(photos: Path, embed: Embed, tmp_path: Path) -> None:
    embed(photos)
    (photos / "inner").rename(photos / "inside")
    assert embed(photos).embedded == 0
    write_zip(tmp_path / "all.zip", sorted(photos.rglob("*.png")))
    report = embed(tmp_path / "all.zip", replace=True)
    assert (report.embedded, report.kept) == (0, 20)
    # The archive is written again.
    os.utime(tmp_path / "all.zip", (1, 1))
    assert embed(tmp_path / "all.zip").embedded == 0


def test_ids_are_relative_for_one_folder(photos: Path, embed: Embed, tmp_path: Path) -> None:
    absolute = [item.id for item in open_sources(photos, ids="absolute").items()]
    assert absolute == [item.path for item in open_sources([photos, photos]).items()]
    relative = [item.id for item in open_sources(photos).items()]
    assert [str(photos / id) for id in relative] == absolute
    embed(photos, ids="absolute")
    assert list(vectors_of(tmp_path / "out")) == absolute
    # The choice is kept; another one needs no embedding.
    embed(photos)
    assert list(vectors_of(tmp_path / "out")) == absolute
    assert embed(photos, ids="relative").embedded == 0
    assert list(vectors_of(tmp_path / "out")) == relative


def test_equal_relative_ids_of_two_folders(
    photos: Path, some: list[Path], embed: Embed, tmp_path: Path
) -> None:
    (tmp_path / "more").mkdir()
    shutil.copy(some[9], tmp_path / "more" / some[8].name)
    embed(photos)
    report = embed([photos, tmp_path / "more"])
    assert (report.rows, report.failed) == (20, 1)
    assert "--ids absolute" in failed_of(tmp_path / "out")[some[8].name]
    assert embed([photos, tmp_path / "more"], ids="absolute").rows == 21


def test_a_name_that_is_not_utf8(photos: Path, some: list[Path], embed: Embed) -> None:
    shutil.copy(some[0], os.fsencode(photos / "inner") + b"/\xff.png")
    ids = [item.id for item in open_sources(photos).items()]
    assert "inner/%FF.png" in ids
    report = embed(photos)
    assert report.rows == 21


def test_a_folder_of_an_earlier_version(photos: Path, embed: Embed, tmp_path: Path) -> None:
    """Its Parquet files have no checksums of images."""
    embed(photos, shard_items=64)
    out = tmp_path / "out"
    (path,) = out.glob("*.parquet")
    table = pyarrow.parquet.read_table(path)
    assert all(len(value) == 64 for value in table.column("sha256").to_pylist())
    opened = bulk.open_embeddings(out)
    pyarrow.parquet.write_table(table.drop_columns(["sha256"]), path)
    ((_, _, lines),) = opened.blocks()
    assert lines.schema.names == table.schema.names and lines["sha256"].null_count == 20
