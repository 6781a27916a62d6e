"""Embedding of images and texts of any number, where a bad one costs itself only.

`run.py` is the library's functions: `sources.py` finds what each source is (`folders.py`,
`archives.py`, `tables.py`) and gives `items.py`, `stream.py` embeds them, `output.py` writes the
folder: `manifest.py`, `shard_files.py`, and `known.py` for what was there. `reader.py` reads it,
`lookup.py` opens what is recorded there. `cluster.py` does all this on a Ray cluster, `batches.py`
is for callers with images of their own. Uses `pipelines`, `preprocessors` and `datasets`.
"""

from .batches import Batch, embed_images
from .cluster import ray_embed
from .lookup import holds_many, open_recorded
from .manifest import model_identity
from .reader import Block, Embeddings, open_embeddings
from .run import Report, embed, iter_embeddings
from .sources import open_sources

__all__ = [
    "Batch",
    "Block",
    "Embeddings",
    "Report",
    "embed",
    "embed_images",
    "holds_many",
    "iter_embeddings",
    "model_identity",
    "open_embeddings",
    "open_recorded",
    "open_sources",
    "ray_embed",
]
