"""Data sets: images with texts, and images with classes, in the layouts of others.

One reader a layout (`retrieval.py` says what it answers), found by `layouts.py`. `pairs.py` gives
any of them random access, by `stores.py`. `problems.py` collects what is wrong with single rows,
which are named and left out. May import `preprocessors`.
"""

from .layouts import open_retrieval
from .pairs import PairData, open_pairs
from .problems import Problem, Problems
from .retrieval import ImageRow, RetrievalData, TextRow
from .tsv import write_split

__all__ = [
    "ImageRow",
    "PairData",
    "Problem",
    "Problems",
    "RetrievalData",
    "TextRow",
    "open_pairs",
    "open_retrieval",
    "write_split",
]
