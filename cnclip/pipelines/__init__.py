"""The pipeline, under ModelScope's module path.

`builder.py` chooses the device and opens the model, `embedding.py` is the pipeline's class,
`stream.py` embeds any number of items, `scores.py` makes probabilities of cosines. May import
`preprocessors`, `models`, `archive` and `_core`.
"""

from .builder import pipeline
from .embedding import MultiModalEmbeddingPipeline
from .model import EmbeddingModel
from .stream import Batch, embed_images, embed_texts

__all__ = [
    "Batch",
    "EmbeddingModel",
    "MultiModalEmbeddingPipeline",
    "embed_images",
    "embed_texts",
    "pipeline",
]
