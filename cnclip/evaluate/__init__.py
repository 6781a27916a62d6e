"""Evaluation of models: recall of retrieval, accuracy of zero-shot classification.

    from cnclip.evaluate import ZeroShotClassifier, recall_at_k, retrieval, top_k

`retrieval.py` and `zeroshot.py` evaluate a model on a data set. `embeddings.py` keeps embeddings in
`bulk`'s folders, `reports.py` has the results, `pages.py` and `confusion_*.py` render them.
`topk.py` and `recall.py` work on any arrays.
"""

from .recall import recall_at_k
from .reports import RetrievalReport, ZeroShotReport
from .retrieval import retrieval
from .topk import Ranked, mutual_top_k, top_k
from .zeroshot import Classified, ZeroShotClassifier, zeroshot

__all__ = [
    "Classified",
    "Ranked",
    "RetrievalReport",
    "ZeroShotClassifier",
    "ZeroShotReport",
    "mutual_top_k",
    "recall_at_k",
    "retrieval",
    "top_k",
    "zeroshot",
]
