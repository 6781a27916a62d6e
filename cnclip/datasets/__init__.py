"""Data sets: which texts belong to which images, which images to which classes, and splits.

`retrieval.py` is the interface of a data set of images and texts. `chinese_clip.py` and
`captions.py` have the layouts, `layouts.py` finds which one a path has, `pairs.py` gives random
access for training. `classification.py` has images with classes. Files are read by `sources`.
"""

from ..sources.rows import Problem, ProblemKind, Problems
from .chinese_clip import write_split
from .layouts import open_retrieval
from .pairs import PairData, open_pairs
from .retrieval import ImageRow, RetrievalData, TextRow

__all__ = [
    "ImageRow",
    "PairData",
    "Problem",
    "ProblemKind",
    "Problems",
    "RetrievalData",
    "TextRow",
    "open_pairs",
    "open_retrieval",
    "write_split",
]
