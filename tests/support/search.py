"""Vectors, indexes and commands for the tests of search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cnclip.cli import main
from cnclip.search import Index

MODEL = {"name": "some", "digest": "0123456789abcdef", "embed_dim": 32, "resolution": 8}


OTHER = {**MODEL, "name": "another", "digest": "fedcba9876543210"}


DIM = 32


KINDS = ("exact", "hnsw", "ivfpq")


Rows = NDArray[np.float32]


def unit(count: int, dim: int = DIM, seed: int = 0, clusters: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, dim), np.float32)
    if clusters:
        centres = np.random.default_rng(9).standard_normal((clusters, dim), np.float32)
        rows += 2 * centres[rng.integers(0, clusters, count)]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def names(count: int, start: int = 0) -> list[str]:
    return [f"{number}" for number in range(start, start + count)]


def made(rows: Rows, kind: str = "exact", **options: Any) -> Index:
    sample = rows if kind == "ivfpq" else None
    index = Index.create(rows.shape[1], model=MODEL, kind=kind, sample=sample, **options)
    index.add(rows, names(len(rows)))
    return index


def found(index: Any, queries: Rows, k: int = 10) -> list[list[int]]:
    return [[int(hit.id) for hit in hits] for hits in index.search(queries, k)]


def recall(got: list[list[int]], truth: NDArray[np.int64]) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(got, truth, strict=True)]))


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["search", *arguments, "--json", "--device", "cpu"]) == 0
    answer: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return answer


def files(answer: list[dict[str, Any]]) -> list[str]:
    return [Path(one["path"]).stem for one in answer]
