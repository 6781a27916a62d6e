"""`cnclip index` from folders that clip-retrieval, or another program, wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from cnclip.bulk import model_identity
from cnclip.cli import main
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.search import Index
from tests.support.search import files, run_json

TEXTS = ["猫", "狗", "汽车"]


@pytest.fixture
def foreign(tmp_path: Path, embedder: MultiModalEmbeddingPipeline) -> Path:
    """Images with captions, in the layout of clip-retrieval, without a record of the model."""
    from cnclip.assets import asset_path

    paths = [asset_path("gallery") / f"{code}.png" for code in ("1f408", "1f415", "1f697")]
    made = embedder.forward({"img": paths, "text": TEXTS})
    table = pyarrow.table({"image_path": list(map(str, paths)), "caption": TEXTS})
    for name in ("img_emb", "text_emb", "metadata"):
        (tmp_path / "foreign" / name).mkdir(parents=True)
    for name, key in (("img_emb", "img_embedding"), ("text_emb", "text_embedding")):
        rows = made[key].astype(np.float16)
        np.save(tmp_path / "foreign" / name / f"{name}_0.npy", rows)
    pyarrow.parquet.write_table(table, tmp_path / "foreign" / "metadata" / "metadata_0.parquet")
    return tmp_path / "foreign"


def index(source: Path, output: Path, *options: str) -> int:
    return main(["index", str(source), "-o", str(output), "--device", "cpu", *options])


def test_with_its_model(
    foreign: Path,
    tmp_path: Path,
    embedder: MultiModalEmbeddingPipeline,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "x.index"
    assert index(foreign, path, "--model", "emoji-cn") == 0
    assert Index.load(path).model == model_identity(embedder)
    assert files(run_json(capsys, str(path), "狗", "-k", "1")) == ["1f415"]


def test_texts(foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.index"
    assert index(foreign, path, "--model", "emoji-cn", "--texts") == 0
    opened = Index.load(path)
    assert (opened.contents, len(opened)) == ("texts", 3)
    found = run_json(capsys, str(path), "狗", "-k", "1")
    assert [one["text"] for one in found] == ["狗"]


def test_without_a_model(foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.index"
    assert index(foreign, path) == 0
    assert "does not record the model of its embeddings" in capsys.readouterr().err
    assert Index.load(path).model is None
    assert main(["search", str(path), "狗", "--device", "cpu"]) == 2
    assert "does not record a model; pass --model" in capsys.readouterr().err
    found = run_json(capsys, str(path), "狗", "-k", "1", "--model", "emoji-cn")
    assert files(found) == ["1f415"]


def test_another_model(
    foreign: Path, tmp_path: Path, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert index(foreign, tmp_path / "x.index", "--model", str(archive)) == 2
    assert "has embeddings of 128 columns; those of tiny-vit have" in capsys.readouterr().err
    assert not (tmp_path / "x.index").exists()


def test_rows_that_are_not_normalized(
    foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = foreign / "img_emb" / "img_emb_0.npy"
    np.save(path, np.load(path) * np.float16(3))
    assert index(foreign, tmp_path / "x.index") == 2
    assert "img_emb_0.npy:row 0: has the length 3, expected 1" in capsys.readouterr().err


def test_what_cnclip_wrote(
    embeddings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The images, their model and their ids are those of the folder of embeddings.
    photos = tmp_path / "photos"
    options = ["--model", "emoji-cn", "--device", "cpu", "--to", "clip-retrieval"]
    assert main(["embed", str(photos), "-o", str(embeddings), *options]) == 0
    (tmp_path / "copy").mkdir()
    for name in ("img_emb", "metadata"):
        (embeddings / name).rename(tmp_path / "copy" / name)
    for source in ("out", "copy"):
        assert index(tmp_path / source, tmp_path / f"{source}.index") == 0
    one, other = (Index.load(tmp_path / f"{source}.index") for source in ("out", "copy"))
    assert (one.ids(), one.model, one.precision) == (other.ids(), other.model, other.precision)
    query = np.eye(1, one.dim, dtype=np.float32)
    assert one.search(query, 5) == other.search(query, 5)


def test_texts_of_other_folders_are_refused(
    embeddings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert index(embeddings, tmp_path / "x.index", "--texts") == 2
    assert "--texts is for clip-retrieval's folders" in capsys.readouterr().err
