"""Exact search and recall, against definitions written out here, and against cn_clip's scripts."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cnclip.errors import InvalidInputError
from cnclip.evaluate import mutual_top_k, recall_at_k, top_k, topk


def sorted_by_score(queries: NDArray[Any], candidates: NDArray[Any], k: int) -> list[list[int]]:
    """By definition: larger scores first, of equal ones the lower index."""
    return [
        sorted(range(len(candidates)), key=lambda i: (-scores[i], i))[:k]
        for scores in (queries @ candidates.T).tolist()
    ]


# Small integers: products are exact, and many are equal.
@st.composite
def vectors(draw: st.DrawFn) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    seed, width = draw(st.integers(0, 2**32 - 1)), draw(st.integers(1, 4))
    rng = np.random.default_rng(seed)
    queries = rng.integers(-2, 3, (draw(st.integers(1, 40)), width))
    candidates = rng.integers(-2, 3, (draw(st.integers(1, 40)), width))
    return queries, candidates, draw(st.integers(1, 12))


@settings(max_examples=200, deadline=None)
@given(vectors(), st.integers(1, 9), st.integers(1, 9))
def test_search_is_sorting(
    case: tuple[NDArray[np.int64], NDArray[np.int64], int], rows: int, columns: int
) -> None:
    queries, candidates, k = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topk, "BLOCK_ROWS", rows)
        patch.setattr(topk, "BLOCK_COLUMNS", columns)
        forth, back = mutual_top_k(queries, candidates, k)
        alone = top_k(queries, candidates, k)
    assert forth.indices.tolist() == sorted_by_score(queries, candidates, k)
    assert back.indices.tolist() == sorted_by_score(candidates, queries, k)
    assert alone.indices.tolist() == forth.indices.tolist()
    expected = np.take_along_axis(queries @ candidates.T, forth.indices, axis=1)
    np.testing.assert_array_equal(forth.scores, expected)


def test_search_over_several_blocks() -> None:
    rng = np.random.default_rng(3)
    queries = rng.standard_normal((5000, 24), dtype=np.float32)
    candidates = rng.standard_normal((3000, 24), dtype=np.float32)
    scores = queries @ candidates.T
    forth, back = mutual_top_k(queries, candidates)
    np.testing.assert_array_equal(forth.indices, np.argsort(-scores, axis=1)[:, :10])
    np.testing.assert_array_equal(back.indices, np.argsort(-scores.T, axis=1)[:, :10])


@pytest.mark.parametrize(
    ("queries", "candidates", "k"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), 1),
        (np.ones(3), np.ones((2, 3)), 1),
        (np.ones((2, 3)), np.ones((2, 3)), 0),
        (np.ones((2, 3)), np.full((2, 3), np.nan), 1),
        (np.array([["a"]]), np.ones((1, 1)), 1),
    ],
)
def test_search_refuses(queries: Any, candidates: Any, k: int) -> None:
    with pytest.raises(InvalidInputError):
        top_k(queries, candidates, k)


def recall_by_definition(ranked: list[list[int]], relevant: list[set[int]], k: int) -> float:
    return (
        100
        * sum(bool(set(found[:k]) & right) for found, right in zip(ranked, relevant, strict=True))
        / len(ranked)
    )


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.permutations(range(12)).map(list), st.sets(st.integers(0, 14), max_size=4)),
        min_size=1,
        max_size=30,
    )
)
def test_recall_is_its_definition(cases: list[tuple[list[int], set[int]]]) -> None:
    ranked, relevant = [found for found, _ in cases], [right for _, right in cases]
    recall = recall_at_k(ranked, relevant)
    for k in (1, 5, 10):
        assert recall[f"R@{k}"] == pytest.approx(recall_by_definition(ranked, relevant, k))
    assert recall["MR"] == pytest.approx((recall["R@1"] + recall["R@5"] + recall["R@10"]) / 3)
    assert recall_at_k(np.array(ranked), [np.array(sorted(right)) for right in relevant]) == recall


def test_recall_refuses() -> None:
    for ranked, relevant, ks in (([], [], (1,)), ([[1]], [], (1,)), ([[1]], [[1]], (0,))):
        with pytest.raises(InvalidInputError):
            recall_at_k(ranked, relevant, ks)


@pytest.mark.parametrize("direction", ["text_to_image", "image_to_text"])
def test_cn_clips_scripts_count_the_same(direction: str, tmp_path: Path) -> None:
    package = importlib.util.find_spec("cn_clip")
    if package is None or not package.submodule_search_locations:
        pytest.skip("cn_clip is not installed (pip install --no-deps cn_clip)")
    query, found, script = {
        "text_to_image": ("text_id", "image_ids", "evaluation.py"),
        "image_to_text": ("image_id", "text_ids", "evaluation_tr.py"),
    }[direction]
    path = Path(next(iter(package.submodule_search_locations))) / "eval" / script
    rng = np.random.default_rng(11)
    queries, candidates = rng.integers(-2, 3, (300, 4)), rng.integers(-2, 3, (90, 4))
    ranked = top_k(queries, candidates).indices.tolist()
    relevant = [rng.choice(90, rng.integers(1, 6), replace=False).tolist() for _ in queries]
    golden, predicted, output = (tmp_path / name for name in ("golden", "predicted", "output"))
    golden.write_text(
        "".join(json.dumps({query: i, found: r}) + "\n" for i, r in enumerate(relevant))
    )
    predicted.write_text(
        "".join(json.dumps({query: i, found: r}) + "\n" for i, r in enumerate(ranked))
    )
    subprocess.run([sys.executable, path, golden, predicted, output], check=True, timeout=60)
    theirs = json.loads(output.read_text())["scoreJson"]
    assert recall_at_k(ranked, relevant) == {
        "R@1": theirs["r1"],
        "R@5": theirs["r5"],
        "R@10": theirs["r10"],
        "MR": theirs["mean_recall"],
    }
