"""Images and texts to the arrays that the towers take, under ModelScope's module paths.

`image.py` opens images, `multi_modal.py` makes the arrays, several at once through `prefetch.py`.
May import `_core`, `archive` and `errors`.
"""

from .image import load_image
from .multi_modal import CLIPPreprocessor

__all__ = ["CLIPPreprocessor", "load_image"]
