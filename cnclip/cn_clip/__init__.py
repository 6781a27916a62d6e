"""The interface of cn_clip, the package of the Chinese-CLIP authors, on cnclip.

A program moves here by writing `cnclip.cn_clip` for `cn_clip` in its import:

    import cnclip.cn_clip.clip as clip
    from cnclip.cn_clip.clip import load_from_name, available_models

The names of `cn_clip.clip` are also here: `import cnclip.cn_clip as clip`. The model is a
torch.nn.Module, so this package imports Python's torch; it needs no torchvision.
"""

from .clip import (
    available_models,
    create_model,
    image_transform,
    load,
    load_from_name,
    tokenize,
)

__all__ = [
    "available_models",
    "create_model",
    "image_transform",
    "load",
    "load_from_name",
    "tokenize",
]
