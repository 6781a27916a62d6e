"""Indexes for the tests of serve."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from cnclip.bulk import model_identity
from cnclip.cli._arguments import open_model_of
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.search import Collection, Index


def open_model(collection: Collection) -> MultiModalEmbeddingPipeline:
    arguments = Namespace(model=None, precision=None, device="cpu", threads=None)
    return open_model_of(collection, arguments)


def make_index(
    path: Path, embedder: MultiModalEmbeddingPipeline, files: list[Path], **model: Any
) -> Path:
    rows = embedder.forward({"img": [str(file) for file in files]})["img_embedding"]
    index = Index.create(rows.shape[1], model={**model_identity(embedder), **model})
    index.add(rows, [str(file) for file in files])
    index.save(path)
    return path
