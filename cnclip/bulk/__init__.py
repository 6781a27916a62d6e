"""Embedding of images and texts of any number, to a folder or to an iterator.

| file | content |
|---|---|
| `embed.py` | `embed` and `iter_embeddings`, their options and their report |
| `items.py` | the sources that a caller names, their items, and the outcome of each |
| `store.py` | writes the folder |
| `earlier.py` | finds the items of earlier runs in it |
| `folder.py` | the folder's manifest and shards, and `Embeddings`, which reads them |
| `clip_retrieval.py` | reads clip-retrieval's folders as `Embeddings` |
| `to_clip_retrieval.py` | writes them |
| `lookup.py` | opens the images that are recorded in a folder |
| `cluster.py` | embeds on a Ray cluster |

An item that cannot be embedded is recorded with its error. May import `sources`, `datasets`,
`pipelines` and `preprocessors`.
"""

from .clip_retrieval import open_clip_retrieval
from .cluster import ray_embed
from .embed import EmbedOptions, EmbedReport, embed, iter_embeddings
from .folder import EmbeddingBatch, Embeddings, model_identity, open_embeddings
from .lookup import open_recorded

__all__ = [
    "EmbedOptions",
    "EmbedReport",
    "EmbeddingBatch",
    "Embeddings",
    "embed",
    "iter_embeddings",
    "model_identity",
    "open_clip_retrieval",
    "open_embeddings",
    "open_recorded",
    "ray_embed",
]
