"""Embeddings of images and Chinese texts with Chinese-CLIP.

    from cnclip import pipeline, Tasks, load_image

    p = pipeline(task=Tasks.multi_modal_embedding, model="emoji-cn")
    p.forward({"text": ["戴眼镜的猫"]})["text_embedding"]  # float32 [1, d]

The modules carry ModelScope's names, so that a program moves here by changing `modelscope` to
`cnclip` in its imports. Importing this package loads libtorch, not Python's torch.
"""

from . import _libtorch

_libtorch.load()

from .errors import CnclipError  # noqa: E402
from .outputs import OutputKeys  # noqa: E402
from .pipelines import pipeline  # noqa: E402
from .preprocessors.image import load_image  # noqa: E402
from .utils.constant import Tasks  # noqa: E402
from .version import __version__  # noqa: E402

__all__ = [
    "CnclipError",
    "OutputKeys",
    "Tasks",
    "__version__",
    "load_image",
    "pipeline",
]
