"""The names of `cn_clip.clip`."""

from .inputs import _tokenizer, image_transform, tokenize
from .model import convert_state_dict
from .utils import available_models, create_model, load, load_from_name

__all__ = [
    "_tokenizer",
    "available_models",
    "convert_state_dict",
    "create_model",
    "image_transform",
    "load",
    "load_from_name",
    "tokenize",
]
