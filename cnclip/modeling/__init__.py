"""The towers of Chinese-CLIP as torch.nn modules that torch.jit.script accepts.

Parameters carry the names that cn_clip and ModelScope give them. Imported by `convert` only: this
package needs Python's torch, embedding does not. It may import nothing else of cnclip but `errors`.
"""

from .clip import ChineseClip
from .config import ClipConfig, TextConfig, VisionConfig

__all__ = ["ChineseClip", "ClipConfig", "TextConfig", "VisionConfig"]
