"""Indexes of files that are gone or were moved."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from cnclip import bulk
from cnclip.cli import main
from cnclip.errors import InvalidInputError
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.search import Hit, Index, Root, index_embeddings
from cnclip.search.moved import gone_message
from tests.support.search import run_json

pytest.importorskip("faiss", reason="faiss-cpu is not installed, cnclip's extra `search`")


@pytest.mark.parametrize("ids", ["relative", "absolute"])
def test_search_says_what_is_gone_and_finds_it_elsewhere(
    tmp_path: Path,
    embeddings: Path,
    embedder: MultiModalEmbeddingPipeline,
    capsys: pytest.CaptureFixture[str],
    ids: str,
) -> None:
    photos, path = tmp_path / "photos", tmp_path / "it.index"
    options = bulk.EmbedOptions(ids=ids)  # type: ignore[arg-type]
    bulk.embed(photos, embedder, embeddings, options)
    index_embeddings(embeddings).save(path)
    before = run_json(capsys, str(path), "猫", "-k", "4")
    assert main(["search", str(path), "猫", "-k", "4", "--device", "cpu"]) == 0
    assert "gone" not in capsys.readouterr().err
    moved = tmp_path / "disk" / "2024" / "photos"
    moved.parent.mkdir(parents=True)
    photos.rename(moved)
    assert main(["search", str(path), "猫", "-k", "4", "--device", "cpu"]) == 0
    message = f"4 of 4 files are gone, such as {before[0]['path']}; if they were moved"
    assert message in capsys.readouterr().err
    for root in (moved, moved.parent):  # the folder itself, or one above it
        after = run_json(capsys, str(path), "猫", "-k", "4", "--root", str(root))
        names = [Path(one["path"]).name for one in before]
        assert [one["path"] for one in after] == [str(moved / name) for name in names]
        assert [one["score"] for one in after] == [one["score"] for one in before]
    (moved / names[1]).unlink()
    command = ["search", str(path), "猫", "-k", "4", "--device", "cpu", "--root", str(moved)]
    assert main(command) == 0
    assert "1 of 4 files are gone" in capsys.readouterr().err
    assert main([*command[:-1], str(photos)]) == 2
    assert f"{photos}: no such folder" in capsys.readouterr().err


def test_index_says_what_is_gone_and_takes_a_root(
    tmp_path: Path, embeddings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["index", str(embeddings), "-o", str(tmp_path / "it.index"), "--device", "cpu"]
    moved = (tmp_path / "photos").rename(tmp_path / "moved")
    assert main(command) == 0
    assert "40 of 40 files are gone, such as" in capsys.readouterr().err
    assert main([*command, "--root", str(moved)]) == 0
    assert "gone" not in capsys.readouterr().err
    found = Index.load(tmp_path / "it.index")
    image = str(sorted(moved.iterdir())[0])
    hit = run_json(capsys, str(tmp_path / "it.index"), "--image", image, "-k", "1")[0]
    assert hit["path"] == image and len(found) == 40
    # Images are embedded where they are.
    assert main(["index", str(moved), *command[2:], "--root", str(moved)]) == 2
    assert "--root is for embeddings" in capsys.readouterr().err


def test_places_of_archives_urls_and_odd_names(tmp_path: Path) -> None:
    root = tmp_path / "new"
    (root / "a").mkdir(parents=True)
    with zipfile.ZipFile(root / "a" / "x.zip", "w") as archive:
        archive.writestr("in/1.png", b"x")
    (root / "%FF.png").touch()
    shutil.copy(root / "%FF.png", root / "b.png")
    places = Root(root)
    assert places.place("/old/a/x.zip:in/1.png", "/old/a/x.zip") == (
        f"{root}/a/x.zip:in/1.png",
        f"{root}/a/x.zip",
    )
    assert places.place("7", "/old/b.png") == ("7", f"{root}/b.png")
    assert places.place("/old/b.png", "/old/b.png") == (f"{root}/b.png", f"{root}/b.png")
    for same in (
        ("u", "http://host/b.png"),
        ("f", "file://host/b.png"),
        ("/gone.png", "/gone.png"),
        ("5", "5"),
    ):
        assert places.place(*same) == same
    assert places.moved(Hit("/old/b.png", 0.5, "7")).path == f"{root}/b.png"
    assert gone_message(["http://host/b.png", "5", str(root / "b.png")]) is None
    with pytest.raises(InvalidInputError, match="no such folder"):
        Root(tmp_path / "absent")
