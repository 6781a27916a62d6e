"""Embedding of images and texts of any number, to a folder or to an iterator.

`run.py` has the library's functions. `sources.py` finds the kind of each source, `rows.py` makes
`items.py` of the files that `cnclip.sources` reads, `stream.py` embeds them, `output.py` writes the
folder: `manifest.py`, `shard_files.py`, and `known.py` for items of earlier runs. `reader.py` reads
the folder, `lookup.py` opens the images that are recorded in it. `cluster.py` embeds on a Ray
cluster. May import `pipelines`, `preprocessors`, `sources` and `datasets`.
"""

from .cluster import ray_embed
from .lookup import holds_many, open_recorded
from .manifest import model_identity
from .reader import Block, Embeddings, open_embeddings
from .run import Report, embed, iter_embeddings
from .sources import open_sources

__all__ = [
    "Block",
    "Embeddings",
    "Report",
    "embed",
    "holds_many",
    "iter_embeddings",
    "model_identity",
    "open_embeddings",
    "open_recorded",
    "open_sources",
    "ray_embed",
]
