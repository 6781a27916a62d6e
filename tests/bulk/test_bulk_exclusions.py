"""Files and folders that are left out, and output folders that a run must not use."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from cnclip import bulk
from cnclip.cli import main
from cnclip.datasets.classification import ClassificationData
from cnclip.errors import DatasetError, EmbeddingsError, InvalidInputError
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.sources import walk
from cnclip.sources.exclusions import Exclusions
from cnclip.sources.image_names import ImageNames
from tests.support.bulk import Embed, content_of, failed_of, vectors_of

JUNK = (
    *("@eaDir/a.jpg", "#recycle", "$RECYCLE.BIN", "$Recycle.Bin", "System Volume Information"),
    *("lost+found", "__MACOSX", "node_modules/x/docs", ".thumbnails", "inner/@eaDir"),
)


@pytest.fixture
def nas(photos: Path, some: list[Path]) -> Path:
    """A folder of images as a file server keeps it."""
    for place in JUNK:
        (photos / place).mkdir(parents=True)
        shutil.copy(some[0], photos / place / "THUMB.png")
    return photos


def names_of(folder: Path, exclusions: Exclusions | None = None) -> list[str]:
    return [
        os.path.relpath(file.path, folder)
        for file in walk(folder, ImageNames(exclusions=exclusions))
    ]


def test_folders_of_other_programs_are_left_out(nas: Path, embed: Embed) -> None:
    report = embed(nas)
    assert (report.rows, report.failed) == (20, 0)
    assert report.excluded["@eaDir/"] == 2 and report.excluded["$RECYCLE.BIN/"] == 2
    assert set(report.excluded) == {
        *("@eaDir/", "#recycle/", "$RECYCLE.BIN/", "System Volume Information/", "lost+found/"),
        *("__MACOSX/", "node_modules/"),
    }
    assert embed(nas, default_excludes=False).rows == 20 + len(JUNK)
    # The choice is kept.
    assert embed(nas).rows == 20 + len(JUNK)
    assert embed(nas, default_excludes=True).rows == 20


def test_a_file_of_such_a_name_is_an_image(photos: Path, some: list[Path]) -> None:
    shutil.copy(some[0], photos / "node_modules.png")
    (photos / "lost+found.png").mkdir()
    shutil.copy(some[0], photos / "lost+found.png" / "0.png")
    assert len(names_of(photos)) == 22
    # The folder that is named is searched, whatever its name.
    renamed = photos.rename(photos.parent / "@eaDir")
    assert len(names_of(renamed)) == 22


def test_patterns_are_of_names_or_paths(tmp_path: Path) -> None:
    for name in ("a.png", "B.PNG", "c.jpg", "x/a.png", "x/y/c.jpg", "raw/1.jpg", "x/raw/2.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")

    def left(*patterns: str) -> set[str]:
        return set(names_of(tmp_path, Exclusions(patterns)))

    assert left("*.png") == {"c.jpg", "x/y/c.jpg", "raw/1.jpg", "x/raw/2.jpg"}
    assert left("raw/") == {"a.png", "B.PNG", "c.jpg", "x/a.png", "x/y/c.jpg"}
    assert left("/raw/") == left() - {"raw/1.jpg"}
    assert left("x/*.jpg") == {"a.png", "B.PNG", "c.jpg", "x/a.png", "raw/1.jpg"}
    assert left("c.jpg/") == left()  # a folder alone
    assert left("x", "raw") == {"a.png", "B.PNG", "c.jpg"}


def test_patterns_are_kept_in_the_manifest(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["embed", str(photos), "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*command, "--exclude", "inner/", "--exclude", "*_1*"]) == 0
    rows = bulk.open_embeddings(tmp_path / "out").rows
    assert rows == len([p for p in photos.glob("*.png") if "_1" not in p.name])
    assert "excluded by patterns:" in capsys.readouterr().err
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["exclude"] == ["inner/", "*_1*"] and manifest["default_excludes"] is True
    assert main(command) == 0
    assert bulk.open_embeddings(tmp_path / "out").rows == rows
    assert main([*command, "--exclude", ""]) == 0
    assert bulk.open_embeddings(tmp_path / "out").rows == 20


def test_a_folder_that_cannot_be_listed_is_named_once(
    photos: Path, embed: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("closed", "lost+found"):
        (photos / name).mkdir()
    (photos / "again").symlink_to(photos / "closed")
    listdir = os.listdir

    def refuse(path: str) -> list[str]:
        if os.path.basename(path) in ("closed", "again", "lost+found"):
            raise PermissionError(13, "Permission denied", path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    report = embed(photos)
    assert (report.rows, report.failed) == (20, 1)
    assert "cannot be listed" in failed_of(tmp_path / "out")["again"]


def test_classes_are_not_folders_of_other_programs(nas: Path) -> None:
    assert ClassificationData(nas).keys == ["inner"]


def test_an_output_that_is_a_source_is_refused(
    photos: Path, embed: Embed, tmp_path: Path, model: MultiModalEmbeddingPipeline
) -> None:
    before = sorted(photos.iterdir())
    (tmp_path / "link").symlink_to(photos)
    for output in (photos, tmp_path / "link", f"{photos}/inner/.."):
        with pytest.raises(InvalidInputError, match="is a source as well"):
            embed(photos, output=output)
    # A folder of other files is as likely a mistake.
    with pytest.raises(EmbeddingsError, match=r"holds other files, such as .*\.png"):
        embed(photos / "inner", output=photos)
    assert sorted(photos.iterdir()) == before


def test_a_run_that_failed_leaves_nothing(
    photos: Path, some: list[Path], embed: Embed, tmp_path: Path, vit: MultiModalEmbeddingPipeline
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DatasetError, match="holds no images"):
        embed(empty)
    assert not (tmp_path / "out").exists()
    # All items failed: another model, other sources and the same files are tried.
    later = tmp_path / "later"
    later.mkdir()
    (later / "a.png").symlink_to(tmp_path / "absent.png")
    report = embed([later / "a.png"])
    assert (report.rows, report.failed) == (0, 1) and len(failed_of(tmp_path / "out")) == 1
    assert bulk.embed(photos, vit, tmp_path / "out").rows == 20


def test_failures_of_a_run_without_success_are_tried_again(
    photos: Path, embed: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object) -> None:
        raise InvalidInputError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr("cnclip.sources.images.ImageRef.read", fail)
        report = embed(photos)
    assert (report.rows, report.failed) == (0, 20)
    report = embed(photos)
    assert (report.embedded, report.failed) == (20, 0)
    assert len(vectors_of(tmp_path / "out")) == 20
    # An empty source does not change a finished folder.
    before = content_of(tmp_path / "out")
    shutil.rmtree(photos)
    photos.mkdir()
    with pytest.raises(DatasetError, match="holds no images"):
        embed(photos)
    assert content_of(tmp_path / "out") == before


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
def test_members_of_archives_are_left_out(
    nas: Path, embed: Embed, tmp_path: Path, suffix: str
) -> None:
    kind = {".zip": "zip", ".tar": "tar", ".tar.gz": "gztar"}[suffix]
    shutil.make_archive(str(tmp_path / "all"), kind, nas)
    report = embed(tmp_path / f"all{suffix}")
    assert (report.rows, report.failed) == (20, 0)
    assert report.excluded["@eaDir/"] == 2
    report = embed(tmp_path / f"all{suffix}", exclude=("inner/",))
    assert (report.rows, report.embedded) == (15, 0)


def test_names_of_members() -> None:
    exclusions = Exclusions(["raw/", "*.tmp.png"])
    names = (
        "./a.png",
        "@eaDir/a.png",
        "x/@eaDir",
        "x\\#recycle\\b.png",
        "x/raw/y/1.png",
        "c.tmp.png",
    )
    assert [name for name in names if not exclusions.exclude_member(name)] == [
        "./a.png",
        "x/@eaDir",
    ]


def test_an_output_in_a_source_is_left_out(photos: Path, embed: Embed, some: list[Path]) -> None:
    output = photos / "inner" / "out"
    for _ in range(2):
        report = embed(photos, output=output)
        assert (report.rows, report.failed, report.left_out) == (20, 0, {})
    shutil.copy(some[0], output / "new.png")
    link = photos.parent / "link"
    link.symlink_to(photos)
    assert embed(link, output=output, replace=True).rows == 20
    # Another folder of embeddings holds no images, and is counted.
    left_out = embed(photos, output=photos.parent / "other").left_out
    assert left_out == {".json": 1, ".npy": 3, ".parquet": 3}


def test_index_and_embeddings_in_the_indexed_folder(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faiss")
    (photos / "notes.txt").write_text("x")
    (photos / "node_modules").mkdir()
    for _ in range(2):
        assert main(["index", str(photos), "-o", str(photos / "it.index"), "--device", "cpu"]) == 0
        printed = capsys.readouterr()
        assert "20 images" in printed.out
        assert "left out, not image files:" in printed.err and "1 .txt" in printed.err
        assert "excluded by patterns: 1 node_modules/" in printed.err
        assert ".npy" not in printed.err
