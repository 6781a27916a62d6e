"""Embedding of many pictures and texts, where a bad one costs itself only.

Uses `pipelines` and `preprocessors`.
"""

from .embed import Batch, embed_pictures

__all__ = ["Batch", "embed_pictures"]
