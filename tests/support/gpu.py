"""A model on the CPU that is used as one on a GPU."""

from __future__ import annotations

import pytest

from cnclip.pipelines import EmbeddingModel


def use_as_on_a_gpu(patch: pytest.MonkeyPatch) -> None:
    """Images reach models as bytes, and models have two batches at a time."""
    patch.setattr(EmbeddingModel, "takes_bytes", True)
    patch.setattr(EmbeddingModel, "batches_under_way", 2)
