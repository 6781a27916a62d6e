"""LlamaIndex's interface, and its index of nodes."""

from __future__ import annotations

import asyncio
import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integrations.conftest import TEXTS, Rows

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("llama_index.core", reason="llama-index-core is not installed")
    from cnclip.integrations.llama_index import CnclipEmbedding

pytestmark = pytest.mark.filterwarnings("ignore")


def test_embeds(named: Any, images: list[str], image_rows: Rows, text_rows: Rows) -> None:
    embedding = CnclipEmbedding(named, device="cpu", embed_batch_size=2)
    np.testing.assert_allclose(embedding.get_text_embedding_batch(TEXTS), text_rows, atol=1e-6)
    np.testing.assert_allclose(embedding.get_query_embedding("狗"), text_rows[1], atol=2e-6)
    np.testing.assert_allclose(embedding.get_image_embedding_batch(images), image_rows, atol=1e-6)
    content = io.BytesIO(Path(images[0]).read_bytes())
    np.testing.assert_allclose(embedding.get_image_embedding(content), image_rows[0], atol=1e-6)


def test_without_waiting(model: Any, images: list[str], image_rows: Rows, text_rows: Rows) -> None:
    embedding = CnclipEmbedding(model, embed_batch_size=2)

    async def all_at_once() -> Any:
        return await asyncio.gather(
            embedding.aget_text_embedding_batch(TEXTS),
            embedding.aget_query_embedding("狗"),
            embedding.aget_image_embedding_batch(images),
            embedding.aget_image_embedding(images[2]),
        )

    texts, query, found, one = asyncio.run(all_at_once())
    np.testing.assert_allclose(texts, text_rows, atol=1e-6)
    np.testing.assert_allclose(query, text_rows[1], atol=2e-6)
    np.testing.assert_allclose(found, image_rows, atol=1e-6)
    np.testing.assert_allclose(one, image_rows[2], atol=1e-6)


def test_stored_by_name(named: Any, images: list[str], image_rows: Rows) -> None:
    embedding = CnclipEmbedding(named, device="cpu", embed_batch_size=7)
    stored = embedding.to_dict()
    assert stored["class_name"] == "CnclipEmbedding"
    copies = [
        pickle.loads(pickle.dumps(embedding)),
        CnclipEmbedding.from_dict(stored),
        embedding.model_copy(),
    ]
    for copy in copies:
        assert copy.model_name == embedding.model_name
        assert (copy.embed_batch_size, copy.device) == (7, "cpu")
        np.testing.assert_allclose(copy.get_image_embedding(images[1]), image_rows[1], atol=1e-6)


def test_without_a_model() -> None:
    with pytest.raises(TypeError, match="expected an open pipeline or a model's name"):
        CnclipEmbedding()


def test_its_index(model: Any) -> None:
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode

    nodes = [TextNode(text=text) for text in TEXTS]
    index = VectorStoreIndex(nodes, embed_model=CnclipEmbedding(model))
    found = index.as_retriever(similarity_top_k=1).retrieve("狗")
    assert [one.text for one in found] == ["狗"]
