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
    """Compute the share of queries that have a relevant candidate among their first k.

    A query counts once, however many relevant candidates it found, as in cn_clip's
    `eval/evaluation.py` and `evaluation_tr.py`. This is not the accuracy within a batch that
    training scripts print, which grows as batches shrink.

    Args:
        ranked: For each query the ids or indices of its candidates, best first: sequences, or an
            array [n, k]. A row may have fewer than k entries.
        relevant: For each query the ids or indices of the relevant candidates. A query without
            any counts as missed, as in those scripts.
        ks: The values of k.

    Returns:
        Percentages: {"R@1": ..., "R@5": ..., "R@10": ..., "MR": ...}, where MR is the mean.

    Raises:
        InvalidInputError: there are no queries, the lengths differ, or a k is below 1.
    """
    if len(ranked) != len(relevant):
        raise InvalidInputError(
            f"ranked has {len(ranked)} queries, but relevant has {len(relevant)}"
        )
    if len(ranked) == 0 or not ks or min(ks) < 1:
        raise InvalidInputError("recall needs at least one query and values of k of at least 1")
    hits = dict.fromkeys(ks, 0)
    max_k = max(ks)
    for found, right in zip(ranked, relevant, strict=True):
        candidates = found.tolist() if isinstance(found, np.ndarray) else list(found)
        wanted = set(right.tolist() if isinstance(right, np.ndarray) else right)
        rank = next((i for i, one in enumerate(candidates[:max_k]) if one in wanted), max_k)
        for k in hits:
            hits[k] += rank < k
    shares = [hits[k] * 1.0 / len(ranked) for k in ks]
    recall = {f"R@{k}": share * 100 for k, share in zip(ks, shares, strict=True)}
    return recall | {"MR": sum(shares) / len(shares) * 100}
