"""Indexes of folders of embeddings."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnclip import bulk
from cnclip.errors import EmbeddingsError, InvalidInputError
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.search import add_embeddings, index_embeddings
from cnclip.search.thresholds import nonsense_texts

pytest.importorskip("faiss", reason="faiss-cpu is not installed, cnclip's extra `search`")
pytest.importorskip("pyarrow.parquet", reason="cnclip's extra `search` is not installed")


@pytest.mark.parametrize("kind", ["auto", "hnsw"])
def test_embeddings_become_an_index(
    kind: str, embeddings: Path, embedder: MultiModalEmbeddingPipeline
) -> None:
    index = index_embeddings(embeddings, kind=kind)
    opened = bulk.open_embeddings(embeddings)
    assert len(index) == opened.rows == 40 and index.ids() == opened.ids
    assert index.model == opened.model == bulk.model_identity(embedder)
    assert (index.kind, index.contents) == ("exact" if kind == "auto" else kind, "images")
    answer = index.find(embedder, image=opened.paths[20], k=3)
    assert answer.hits[0].path == opened.paths[20] and answer.hits[0].score > 0.999
    with pytest.raises(InvalidInputError, match="is in the index already"):
        add_embeddings(index, opened)


def test_many_embeddings_are_coded_after_training_on_some(
    tmp_path: Path, embedder: MultiModalEmbeddingPipeline
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(nonsense_texts(embedder.model.info.vocabulary, 600, 5)), "utf-8")
    bulk.embed(texts, embedder, tmp_path / "out", bulk.EmbedOptions(kind="texts", shard_items=250))
    index = index_embeddings(tmp_path / "out", exact_up_to=100, hnsw_up_to=200)
    assert (index.kind, index.contents, len(index)) == ("ivfpq", "texts", 600)
    wanted = texts.read_text("utf-8").splitlines()[123]
    hit = index.find(embedder, text=wanted, k=1).hits[0]
    assert hit.text == wanted and hit.score > 0.99


def test_missing_and_damaged_shards_are_named(embeddings: Path) -> None:
    shard = sorted(embeddings.glob("*.npy"))[1]
    content = shard.read_bytes()
    for change in (lambda: shard.write_bytes(content[:-1]), shard.unlink):
        change()
        with pytest.raises(EmbeddingsError, match=shard.name):
            index_embeddings(embeddings)
    with pytest.raises(EmbeddingsError, match="manifest"):
        index_embeddings(embeddings.parent / "photos")


def test_embeddings_of_nothing(tmp_path: Path, embedder: MultiModalEmbeddingPipeline) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    report = bulk.embed(tmp_path / "bad.png", embedder, tmp_path / "out")
    assert (report.rows, report.failed) == (0, 1)
    with pytest.raises(InvalidInputError, match=r"out: has no embeddings to index"):
        index_embeddings(tmp_path / "out")


def test_queries_of_another_precision_are_logged(
    embeddings: Path, embedder: MultiModalEmbeddingPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    index = index_embeddings(embeddings)
    index.find(embedder, text="猫", k=1)
    assert not caplog.messages
    index.precision = "bf16"
    index.find(embedder, text="猫", k=1)
    assert "its vectors are in bf16, the query is in fp32: scores differ" in caplog.text
