"""Search in images and texts by texts and images, in an index file or in Milvus.

    from cnclip.search import Index

    index = Index.load("photos.index")
    index.find(pipeline, text="戴眼镜的猫").hits

| module | contents |
|---|---|
| `collection.py` | `Collection`, the base class of both kinds of collection |
| `index.py` | `Index`, made of `vectors.py` (FAISS), `items.py` and `index_file.py` (the format) |
| `tuning.py`, `thresholds.py` | measure an index, and suggest thresholds for scores |
| `milvus.py` | `connect`: a collection in Milvus |
| `open.py` | opens either by its address |
| `build.py` | an index of a folder of embeddings |
| `hits.py`, `answer.py` | the results |
| `moved.py` | files that are gone, and their new places |
| `page.py`, `terminal.py` | show the results |
"""

from .answer import Answer
from .build import Update, add_embeddings, index_embeddings, update_embeddings
from .collection import Collection
from .hits import Hit
from .index import Index
from .milvus import connect
from .moved import Root
from .open import open_collection
from .tuning import Measurement

__all__ = [
    "Answer",
    "Collection",
    "Hit",
    "Index",
    "Measurement",
    "Root",
    "Update",
    "add_embeddings",
    "connect",
    "index_embeddings",
    "open_collection",
    "update_embeddings",
]
