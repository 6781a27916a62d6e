"""Data sets: pictures with texts, and pictures with classes, in the layouts of others.

One reader a layout. `problems.py` collects what is wrong with single rows, which are named and left
out. May import `preprocessors`.
"""

from .problems import Problem, Problems
from .retrieval import PictureRow, RetrievalData, TextRow, open_retrieval
from .tsv import write_split

__all__ = [
    "PictureRow",
    "Problem",
    "Problems",
    "RetrievalData",
    "TextRow",
    "open_retrieval",
    "write_split",
]
