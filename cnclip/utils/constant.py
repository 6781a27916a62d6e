"""Names of tasks, as in `modelscope.utils.constant`."""

from typing import Final


class Tasks:
    """The tasks that Chinese-CLIP's pipeline serves in ModelScope."""

    multi_modal_embedding: Final = "multi-modal-embedding"
    image_text_retrieval: Final = "image-text-retrieval"
