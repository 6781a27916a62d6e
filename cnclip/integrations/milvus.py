"""pymilvus' `BaseEmbeddingFunction`, of texts and images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._checks import requires_extra
from .named_model import ModelInput, NamedModel

with requires_extra("milvus-model", "pymilvus[model]"):
    from pymilvus.model.base import BaseEmbeddingFunction


class CnclipEmbeddingFunction(BaseEmbeddingFunction):
    """Embeds documents, queries and images, for the fields of a collection.

    Vectors are lists of float32 [d], of unit length, which `MilvusClient.insert` and `search` take.

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

    @property
    def dim(self) -> int:
        """Columns of the vectors."""
        return self.model.dim

    def __call__(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """Embed texts. Raises as `pipeline.forward`."""
        return list(self.model.embed_texts(texts))

    def encode_documents(self, documents: Sequence[str]) -> list[NDArray[np.float32]]:
        """Embed texts that are stored. Raises as `pipeline.forward`."""
        return self(documents)

    def encode_queries(self, queries: Sequence[str]) -> list[NDArray[np.float32]]:
        """Embed texts that are searched for: as `encode_documents`."""
        return self(queries)

    def encode_images(self, images: Sequence[Any]) -> list[NDArray[np.float32]]:
        """Embed images, as `pipeline.forward` takes them, and raises."""
        return list(self.model.embed_images(images))
