"""Images and texts to the arrays that the model takes, under ModelScope's module paths.

`image.py` opens images, `inputs.py` checks the arguments of a call, `multi_modal.py` makes the
arrays, several images at once. May import `_core`, `archive` and `errors`.
"""

from .image import load_image
from .multi_modal import CLIPPreprocessor

__all__ = ["CLIPPreprocessor", "load_image"]
