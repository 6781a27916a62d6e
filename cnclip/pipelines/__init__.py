"""The pipeline, under ModelScope's module path.

`builder.py` chooses model and device, `embedding.py` embeds. May import all rooms below it:
`preprocessors`, `convert`, `archive`, `_core`.
"""

from .builder import pipeline
from .embedding import EmbeddingModel, MultiModalEmbeddingPipeline

__all__ = ["EmbeddingModel", "MultiModalEmbeddingPipeline", "pipeline"]
