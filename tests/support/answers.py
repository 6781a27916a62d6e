"""Results of `forward`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[Any]

# Cosines of rows that a GPU computes to those of fp32 on a CPU, at least.
MIN_COSINE = {"fp32": 0.999999, "bf16": 0.9995, "fp16": 0.99995}


def rows(answer: dict[str, Any]) -> Any:
    """The one embedding of an answer that has one."""
    (found,) = [value for value in answer.values() if value is not None]
    return found


def cosines(found: Rows, expected: Rows) -> Rows:
    """The cosine of each row to the row of the same number, float64 [n]."""
    assert found.shape == expected.shape
    products = np.einsum("ij,ij->i", found.astype(np.float64), expected.astype(np.float64))
    lengths = np.linalg.norm(found.astype(np.float64), axis=1) * np.linalg.norm(expected, axis=1)
    return products / lengths
