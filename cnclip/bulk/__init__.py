"""Embedding of images and texts of any number, to a folder or to an iterator.

| file | content |
|---|---|
| `embed.py` | `embed` and `iter_embeddings`; `options.py` has their options |
| `sources.py` | the sources that a caller names, and their items; `items.py` defines these |
| `store.py` | the folder while it is written, and the items of earlier runs |
| `shards.py` | the files of the folder: manifest and shards |
| `reader.py` | reads the folder; `lookup.py` opens the images that are recorded in it |
| `cluster.py` | embeds on a Ray cluster |

An item that cannot be embedded is recorded with its error. May import `sources`, `datasets`,
`pipelines` and `preprocessors`.
"""

from .cluster import ray_embed
from .embed import EmbedReport, embed, iter_embeddings
from .lookup import open_recorded
from .options import EmbedOptions
from .reader import EmbeddingBatch, Embeddings, open_embeddings
from .shards import model_identity

__all__ = [
    "EmbedOptions",
    "EmbedReport",
    "EmbeddingBatch",
    "Embeddings",
    "embed",
    "iter_embeddings",
    "model_identity",
    "open_embeddings",
    "open_recorded",
    "ray_embed",
]
