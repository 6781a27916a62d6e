"""The content of `modelscope.outputs`: keys of results."""

from __future__ import annotations

from . import _names
from ._tables import table
from .constant import Tasks

OutputKeys = table("OutputKeys", _names.OUTPUT_KEYS, value=str.lower)
# Only of tasks that cnclip has.
TASK_OUTPUTS = {
    Tasks.multi_modal_embedding: [OutputKeys.IMG_EMBEDDING, OutputKeys.TEXT_EMBEDDING],
    Tasks.image_text_retrieval: [OutputKeys.IMG_EMBEDDING, OutputKeys.TEXT_EMBEDDING],
}

__all__ = ["TASK_OUTPUTS", "OutputKeys"]
