"""Keys of the pipeline's results, under ModelScope's names (`modelscope.outputs`)."""

from typing import Final


class OutputKeys:
    """Keys of the dict that `forward` returns."""

    IMG_EMBEDDING: Final = "img_embedding"
    TEXT_EMBEDDING: Final = "text_embedding"
