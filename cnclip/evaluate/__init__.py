"""How good a model is: recall of retrieval, accuracy of zero-shot classification.

    from cnclip.evaluate import ZeroShotClassifier, recall_at_k, retrieval, top_k

`retrieve.py` and `classify.py` do whole evaluations; `search.py` and `recall.py` work on arrays of
anyone's; `features.py` keeps embeddings. Uses `datasets`, `bulk` and `pipelines`.
"""

from .classify import Classified, ZeroShotClassifier, ZeroShotReport, zeroshot
from .recall import recall_at_k
from .retrieve import RetrievalReport, normalize_text, retrieval
from .search import Ranked, mutual_top_k, top_k

__all__ = [
    "Classified",
    "Ranked",
    "RetrievalReport",
    "ZeroShotClassifier",
    "ZeroShotReport",
    "mutual_top_k",
    "normalize_text",
    "recall_at_k",
    "retrieval",
    "top_k",
    "zeroshot",
]
