"""Queries by text and image, probabilities and suggested thresholds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cnclip import demo
from cnclip.assets import asset_path
from cnclip.errors import ImageError, InvalidInputError, ModelMismatchError
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.pipelines.scores import probabilities
from cnclip.search import Index
from cnclip.search.thresholds import nonsense_texts

pytest.importorskip("faiss", reason="faiss-cpu is not installed, cnclip's extra `search`")
pytest.importorskip("pyarrow.parquet", reason="cnclip's extra `search` is not installed")

GALLERY = asset_path("gallery")


def test_a_query_of_another_model_is_refused(
    gallery: Path, vit: MultiModalEmbeddingPipeline
) -> None:
    index = Index.load(gallery)
    with pytest.raises(ModelMismatchError, match=r"gallery\.index.*emoji-cn.*tiny-vit"):
        index.find(vit, text="猫")


def test_texts_and_images_are_mixed_by_weight(
    gallery: Path, embedder: MultiModalEmbeddingPipeline
) -> None:
    index, car = Index.load(gallery), str(GALLERY / "1f697.png")
    text, image = (index.find(embedder, *query, k=5) for query in (("猫",), (None, car)))
    assert image.hits[0].path.endswith("1f697.png")
    for weight, alone in ((1.0, text), (0.0, image)):
        mixed = index.find(embedder, "猫", car, k=5, weight=weight)
        assert [hit.id for hit in mixed.hits] == [hit.id for hit in alone.hits]
        assert mixed.suggested is None
    rows = embedder.forward({"text": "猫", "img": car})
    mean = 0.3 * rows["text_embedding"] + 0.7 * rows["img_embedding"]
    expected = index.search(mean / np.linalg.norm(mean), 5)[0]
    assert index.find(embedder, "猫", car, k=5, weight=0.3).hits == expected
    for query, options, words in (
        ((None, None), {}, "got neither"),
        ((" ", None), {}, "empty"),
        (("猫", car), {"weight": 1.5}, "weight"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            index.find(embedder, *query, **options)
    with pytest.raises(ImageError, match=r"nowhere\.png"):
        index.find(embedder, image="nowhere.png")


def test_probabilities_are_the_softmax_of_what_was_found(
    gallery: Path, embedder: MultiModalEmbeddingPipeline
) -> None:
    hits = Index.load(gallery).find(embedder, "生日蛋糕", k=4).hits
    shares = np.exp(np.array([hit.score for hit in hits]) / float(embedder.model.temperature))
    assert [hit.probability for hit in hits] == pytest.approx(shares / shares.sum())
    assert probabilities([1.0, -1.0], 1e-6).tolist() == [1, 0]
    kept = Index.load(gallery).find(embedder, "生日蛋糕", k=4, threshold=hits[1].score).hits
    assert kept == hits[:2]


def test_suggested_thresholds_tell_nonsense_from_words(
    gallery: Path, embedder: MultiModalEmbeddingPipeline
) -> None:
    index = Index.load(gallery)
    suggested = index.find(embedder, "猫", k=1).suggested
    assert suggested == index.thresholds["text"]

    def share_above(texts: list[str]) -> float:
        rows = embedder.forward({"text": texts})["text_embedding"]
        return float(np.mean([hits[0].score >= suggested for hits in index.search(rows, 1)]))

    vocabulary = embedder.model.info.vocabulary
    nonsense = share_above(nonsense_texts(vocabulary, 400, seed=1))
    # One in ten by definition; others than those that it was defined by.
    assert 0.04 < nonsense < 0.18
    words = share_above([image.label for image in demo.load_gallery()])
    assert words > 2 * nonsense
    assert share_above(["量子力学讲座", "资产负债表", "qwertyuiop", "12345678"]) == 0
    images = index.find(embedder, image=str(GALLERY / "1f408.png"), k=50)
    assert images.suggested == index.thresholds["image"]
    assert 1 <= sum(hit.score >= (images.suggested or 0) for hit in images.hits) < 40
    assert nonsense_texts(b"[UNK]\nabc\n") == []


def test_answers_of_vectors(gallery: Path, embedder: MultiModalEmbeddingPipeline) -> None:
    index = Index.load(gallery)
    row = embedder.forward({"text": "猫"})["text_embedding"][0]
    assert index.answer(row, None, k=3) == index.find(embedder, "猫", k=3)
    colder = index.answer(row, None, k=3, temperature=0.001).hits
    assert [hit.score for hit in colder] == [hit.score for hit in index.search(row, 3)[0]]
    assert (colder[0].probability or 0) > 0.99
    with pytest.raises(InvalidInputError, match="query: expected a text, an image, or both"):
        index.answer(None, None, k=3)
