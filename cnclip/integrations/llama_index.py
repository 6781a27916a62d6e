"""LlamaIndex's `MultiModalEmbedding`."""

from __future__ import annotations

import asyncio
from typing import Any

from .._checks import requires_extra
from .named_model import ModelInput, NamedModel

with requires_extra("llama-index", "llama-index-core"):
    from llama_index.core.bridge.pydantic import Field, PrivateAttr
    from llama_index.core.embeddings import MultiModalEmbedding


class CnclipEmbedding(MultiModalEmbedding):
    """Embeds texts and images, which are paths, URLs or open files.

    `model_name`, `device`, `precision` and `num_threads` are fields, so that `to_dict`, `from_dict`
    and pickling keep them.
    """

    device: str = Field(default="gpu", description="As for cnclip's pipeline.")
    precision: str = Field(default="fp32", description="As for cnclip's pipeline.")
    num_threads: int | None = Field(default=None, description="As for cnclip's pipeline.")
    _model: NamedModel = PrivateAttr()

    def __init__(
        self,
        model: ModelInput | None = None,
        *,
        model_name: str | None = None,
        device: str = "gpu",
        precision: str = "fp32",
        num_threads: int | None = None,
        **fields: Any,
    ) -> None:
        """Take a model.

        Args:
            model: An open pipeline; or a model as `pipeline` opens it, opened when it is first
                used.
            model_name: The model, where there is no `model`.
            device: As for `pipeline`, for a model that is not open.
            precision: As for `pipeline`, for a model that is not open.
            num_threads: As for `pipeline`, for a model that is not open.
            fields: Those of LlamaIndex's class, such as `embed_batch_size`.
        """
        chosen = model_name if model is None else model
        if chosen is None:
            raise TypeError("CnclipEmbedding: expected an open pipeline or a model's name")
        opened = NamedModel(chosen, device=device, precision=precision, num_threads=num_threads)
        super().__init__(
            model_name=opened.name,
            device=opened.device,
            precision=opened.precision,
            num_threads=num_threads,
            **fields,
        )
        self._model = opened

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex stores the class."""
        return "CnclipEmbedding"

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        rows: list[list[float]] = self._model.embed_texts(texts).tolist()
        return rows

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embeddings([query])[0]

    def _get_image_embeddings(self, img_file_paths: list[Any]) -> list[list[float]]:
        rows: list[list[float]] = self._model.embed_images(img_file_paths).tolist()
        return rows

    def _get_image_embedding(self, img_file_path: Any) -> list[float]:
        return self._get_image_embeddings([img_file_path])[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_image_embeddings(self, img_file_paths: list[Any]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_image_embeddings, img_file_paths)

    async def _aget_image_embedding(self, img_file_path: Any) -> list[float]:
        return await asyncio.to_thread(self._get_image_embedding, img_file_path)
