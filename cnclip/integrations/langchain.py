"""LangChain's `Embeddings`, of texts and images."""

from __future__ import annotations

import asyncio
from typing import Any

from .._checks import requires_extra
from .named_model import ModelInput, NamedModel

with requires_extra("langchain", "langchain-core"):
    from langchain_core.embeddings import Embeddings


class CnclipEmbeddings(Embeddings):
    """Embeds texts, and images for vector stores that take them, such as Chroma and LanceDB.

    Attributes:
        model: The model.
    """

    def __init__(self, model: ModelInput, **options: Any) -> None:
        """Take a model.

        Args:
            model: An open pipeline; or a model as `pipeline` opens it, opened when it is first
                used.
            options: For a model that is not open: `device`, `precision` and `num_threads`, as for
                `pipeline`.
        """
        self.model = NamedModel(model, **options)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts: n lists of d numbers, of unit length. Raises as `pipeline.forward`."""
        rows: list[list[float]] = self.model.embed_texts(texts).tolist()
        return rows

    def embed_query(self, text: str) -> list[float]:
        """Embed a text: d numbers. Raises as `pipeline.forward`."""
        return self.embed_documents([text])[0]

    def embed_image(self, uris: list[str]) -> list[list[float]]:
        """Embed images by their paths or URLs: n lists of d numbers. Raises as `pipeline.forward`.

        Vector stores call it by this name, for one and for several images.
        """
        rows: list[list[float]] = self.model.embed_images(uris).tolist()
        return rows

    async def aembed_image(self, uris: list[str]) -> list[list[float]]:
        """Embed images as `embed_image`, in another thread."""
        return await asyncio.to_thread(self.embed_image, uris)
