"""`EmbedColumns`: a function of batches of columns, for `datasets`, Ray Data and Daft.

It uses none of these packages: a batch is a mapping from names of columns to their values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidInputError
from .named_model import ModelInput, NamedModel


class EmbedColumns:
    """Adds embeddings of the images, the texts, or both, in the columns of batches.

    For `datasets.Dataset.map`, with `batched=True` or without. Data sets are cached by the model's
    content and the options: another process finds what was embedded, and another model embeds
    again. With `num_proc` pass the model's name: worker processes are forked, and a process that
    has opened a model cannot be.

    Attributes:
        model: The model.
    """

    def __init__(
        self,
        model: ModelInput,
        *,
        image: str | None = None,
        text: str | None = None,
        image_embedding: str = "image_embedding",
        text_embedding: str = "text_embedding",
        **options: Any,
    ) -> None:
        """Take a model and the names of columns.

        Args:
            model: An open pipeline; or a model as `pipeline` opens it, opened when it is first
                used.
            image: The column of images: as `pipeline.forward` takes them, or dicts with `bytes` or
                a `path`.
            text: The column of texts.
            image_embedding: The new column of the images' embeddings.
            text_embedding: The new column of the texts' embeddings.
            options: For a model that is not open: `device`, `precision` and `num_threads`, as for
                `pipeline`.

        Raises:
            InvalidInputError: no column is named.
        """
        if image is None and text is None:
            raise InvalidInputError("expected image='COLUMN', text='COLUMN' or both")
        self.model = NamedModel(model, **options)
        self.image, self.text = image, text
        self.image_embedding, self.text_embedding = image_embedding, text_embedding

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
        """Embed a batch, or a single row.

        Args:
            batch: Values by the names of columns: n values each, or the values of one row.

        Returns:
            The new columns: float32 [n, d], rows of unit length; of a single row [d].

        Raises:
            InvalidInputError: a column is missing; names it.
            CnclipError: as `pipeline.forward`; names the row of the batch, such as `img[3]`.
        """
        found = {}
        if self.image is not None:
            value = _column(batch, self.image)
            single = not _is_many(value)
            rows = self.model.embed_images([value] if single else value)
            found[self.image_embedding] = rows[0] if single else rows
        if self.text is not None:
            value = _column(batch, self.text)
            single = isinstance(value, str)
            rows = self.model.embed_texts([value] if single else value)
            found[self.text_embedding] = rows[0] if single else rows
        return found


def _column(batch: Mapping[str, Any], name: str) -> Any:
    if name not in batch:
        reason = f"no such column; the batch has {', '.join(map(str, batch))}"
        raise InvalidInputError(reason, item=name)
    value = batch[name]
    return value.to_pylist() if hasattr(value, "to_pylist") else value


def _is_many(images: Any) -> bool:
    """Whether a value is a list of images, and not one image."""
    if isinstance(images, np.ndarray):
        return images.ndim == 4 or images.dtype.kind in "OUT"
    return isinstance(images, list | tuple)
