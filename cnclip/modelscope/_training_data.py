"""The pairs of the data sets that programs pass to ModelScope's trainer, and in-batch recall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets.pairs import PairData
from ..errors import DatasetError, InputTypeError
from ..sources.rows import IMAGE_COLUMNS, TEXT_COLUMNS, Columns
from .msdatasets import MsDataset
from .rows import IMAGE, TEXT, RowPairs, Rows, check_columns

# What ModelScope's metric is named, whose value is a share.
INBATCH_RECALL = "inbatch_t2i_recall_at_1"


def pairs_of(dataset: Any, role: str, image: str | None, text: str | None) -> PairData:
    """The pairs of a data set.

    Args:
        dataset: `MsDataset`, its rows, Hugging Face's data set, another sequence of dicts with
            images and texts, or a list of several of the first two.
        role: `train_dataset` or `eval_dataset`, for messages.
        image: The column of images; None for the data set's own.
        text: The column of texts; None for the data set's own.
    """
    rows = _rows_of(dataset, role)
    if isinstance(rows, Rows) and rows.pairs is not None:
        own_image, own_text = rows.column_names[IMAGE], rows.column_names[TEXT]
        check_columns(rows.column_names, image or own_image, text or own_text, role)
        if image not in (None, own_image) or text not in (None, own_text):
            reason = f"column_map: images are in {own_image!r}, texts in {own_text!r}"
            raise DatasetError(reason, item=role)
        return rows.pairs
    if len(rows) == 0:
        raise DatasetError("there are no rows", item=role)
    first = rows[0]
    found = list(first) if isinstance(first, dict) or hasattr(first, "keys") else []
    chosen = Columns(image=IMAGE_COLUMNS, text=TEXT_COLUMNS).choose(found)
    return RowPairs(
        rows, role, "all", image or chosen.image or "img", text or chosen.text or "text"
    )


def _rows_of(dataset: Any, role: str) -> Any:
    if isinstance(dataset, MsDataset):
        return dataset.ds_instance
    if isinstance(dataset, list | tuple) and dataset and not isinstance(dataset[0], dict):
        parts = [_rows_of(one, role) for one in dataset]
        if not all(isinstance(part, Rows) for part in parts):
            raise InputTypeError("expected data sets of MsDataset.load in the list", item=role)
        return parts[0] if len(parts) == 1 else Rows.joined(parts)
    if isinstance(dataset, str) or not (
        hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    ):
        found = type(dataset).__name__
        raise InputTypeError(f"expected a data set with numbered rows, got {found}", item=role)
    return dataset


def inbatch_recall(
    pairs: NDArray[np.int64],
    texts: tuple[NDArray[np.int64], NDArray[np.float32]],
    images: tuple[NDArray[np.int64], NDArray[np.float32]],
    batch_size: int,
    *,
    drop_last: bool,
) -> float:
    """How often a text's image is the most similar one of its batch: ModelScope's metric.

    Args:
        pairs: int64 [n, 2], numbers of an image and of a text, in the order of the batches.
        texts: Their numbers in ascending order, int64 [t], and rows, float32 [t, d].
        images: Those that could be read, as the texts; other pairs are left out.
        batch_size: Pairs of a batch.
        drop_last: Leave out the last batch if it is smaller, and not the only one.

    Returns:
        The share of pairs, from 0 to 1.
    """
    pairs = pairs[np.isin(pairs[:, 0], images[0])]
    image_rows = images[1][np.searchsorted(images[0], pairs[:, 0])]
    text_rows = texts[1][np.searchsorted(texts[0], pairs[:, 1])]
    starts: Sequence[int] = range(0, len(pairs), batch_size)
    if drop_last and len(pairs) > batch_size:
        starts = range(0, len(pairs) - batch_size + 1, batch_size)
    hits = count = 0
    for start in starts:
        batch = slice(start, start + batch_size)
        similarities = text_rows[batch] @ image_rows[batch].T
        hits += int((similarities.argmax(1) == np.arange(len(similarities))).sum())
        count += len(similarities)
    return hits / count if count else 0.0
