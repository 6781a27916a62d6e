"""Search: images and texts by texts and images, in an index on disk or in Milvus.

    from cnclip.search import Index

    index = Index.load("photos.index")
    index.find(pipeline, text="戴眼镜的猫").hits

`vectors.py` is FAISS behind one class, `items.py` what the vectors stand for, `file.py` the file,
`index.py` all three; `milvus.py` answers the same from Milvus, and `collection.py` is what both
share. `build.py` makes an index of embeddings, `query.py` a query's vector, `scores.py` says what
scores mean, `terminal.py` and `page.py` show what was
found, `opening.py` opens a collection with its model. Uses `bulk` and `pipelines`.
"""

from .build import add_embeddings, index_embeddings
from .collection import Answer, Collection, Hit
from .index import Index
from .vectors import Measured

__all__ = ["Answer", "Collection", "Hit", "Index", "Measured", "add_embeddings", "index_embeddings"]
