"""Embeddings of images and Chinese texts with Chinese-CLIP.

    from cnclip import pipeline, Tasks, load_image

    p = pipeline(task=Tasks.multi_modal_embedding, model="emoji-cn")
    p.forward({"text": ["戴眼镜的猫"]})["text_embedding"]  # float32 [1, d]

The modules carry ModelScope's names, so that a program moves here by changing `modelscope` to
`cnclip` in its imports. Importing this package loads no torch: the first pipeline loads
torch's libraries, not Python's torch.
"""

from .errors import CnclipError
from .outputs import OutputKeys
from .pipelines import pipeline
from .preprocessors.image import load_image
from .utils.constant import Tasks
from .version import __version__

__all__ = [
    "CnclipError",
    "OutputKeys",
    "Tasks",
    "__version__",
    "load_image",
    "pipeline",
]
