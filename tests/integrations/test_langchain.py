"""LangChain's interface, with its own vector store and with Chroma's."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import numpy as np
import pytest

from tests.integrations.conftest import TEXTS, Rows

pytest.importorskip("langchain_core", reason="langchain-core is not installed")

from cnclip.integrations.langchain import CnclipEmbeddings

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_embeds(named: Any, images: list[str], image_rows: Rows, text_rows: Rows) -> None:
    embeddings = CnclipEmbeddings(named, device="cpu")
    documents = embeddings.embed_documents(TEXTS)
    assert isinstance(documents[0][0], float)
    np.testing.assert_allclose(documents, text_rows, atol=1e-6)
    np.testing.assert_allclose(embeddings.embed_query("狗"), text_rows[1], atol=2e-6)
    np.testing.assert_allclose(embeddings.embed_image(images), image_rows, atol=1e-6)
    assert embeddings.embed_documents([]) == []
    again = pickle.loads(pickle.dumps(embeddings))
    np.testing.assert_allclose(again.embed_image(uris=images), image_rows, atol=1e-6)


def test_without_waiting(model: Any, images: list[str], image_rows: Rows, text_rows: Rows) -> None:
    embeddings = CnclipEmbeddings(model)

    async def all_at_once() -> Any:
        return await asyncio.gather(
            embeddings.aembed_documents(TEXTS),
            embeddings.aembed_query("狗"),
            embeddings.aembed_image(images),
        )

    documents, query, found = asyncio.run(all_at_once())
    np.testing.assert_allclose(documents, text_rows, atol=1e-6)
    np.testing.assert_allclose(query, text_rows[1], atol=2e-6)
    np.testing.assert_allclose(found, image_rows, atol=1e-6)


def test_its_vector_store(model: Any, images: list[str]) -> None:
    from langchain_core.vectorstores import InMemoryVectorStore

    embeddings = CnclipEmbeddings(model)
    store = InMemoryVectorStore(embeddings)
    store.add_texts(TEXTS)
    (query,) = embeddings.embed_image([images[1]])
    assert store.similarity_search_by_vector(query, k=1)[0].page_content == "狗"


def test_images_in_chroma(model: Any, images: list[str]) -> None:
    chroma = pytest.importorskip("langchain_chroma", reason="langchain-chroma is not installed")
    store = chroma.Chroma("images", CnclipEmbeddings(model))
    ids = store.add_images(images)
    found = store.similarity_search("狗", k=1)
    assert [one.id for one in found] == [ids[1]]
