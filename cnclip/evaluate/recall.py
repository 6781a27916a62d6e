"""Recall at k, as Chinese-CLIP's evaluation scripts define it."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidInputError


def recall_at_k(
    ranked: Sequence[Iterable[Hashable]] | NDArray[Any],
    relevant: Sequence[Collection[Hashable]],
    ks: Sequence[int] = (1, 5, 10),
) -> dict[str, float]:
    """How often something relevant is among the first k that a query found.

    A query counts once, however many relevant candidates it found: cn_clip's
    `eval/evaluation.py` and `evaluation_tr.py`. This is not the accuracy within a batch, which is
    reported while a model is trained, and grows as batches shrink.

    Args:
        ranked: For each query ids or indices of what it found, best first: sequences, or an array
            [n, most]. Those shorter than k are taken as they are.
        relevant: For each query the ids or indices that are right. A query of which nothing is
            right is missed, as in those scripts.
        ks: The k.

    Returns:
        In per cent: {"R@1": ..., "R@5": ..., "R@10": ..., "MR": ...}, MR their mean.

    Raises:
        InvalidInputError: no queries, lengths that differ, or a k below 1.
    """
    if len(ranked) != len(relevant):
        raise InvalidInputError(f"{len(ranked)} queries ranked, but {len(relevant)} with answers")
    if len(ranked) == 0 or not ks or min(ks) < 1:
        raise InvalidInputError("recall needs a query, and every k to be 1 or more")
    hits = dict.fromkeys(ks, 0)
    most = max(ks)
    for found, right in zip(ranked, relevant, strict=True):
        answers = found.tolist() if isinstance(found, np.ndarray) else list(found)
        wanted = set(right.tolist() if isinstance(right, np.ndarray) else right)
        first = next((i for i, answer in enumerate(answers[:most]) if answer in wanted), most)
        for k in hits:
            hits[k] += first < k
    shares = [hits[k] * 1.0 / len(ranked) for k in ks]
    recall = {f"R@{k}": share * 100 for k, share in zip(ks, shares, strict=True)}
    return recall | {"MR": sum(shares) / len(shares) * 100}
