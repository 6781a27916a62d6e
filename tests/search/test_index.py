"""`cnclip.search.Index`: exact and approximate search, adding and removing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from cnclip.errors import (
    InputTypeError,
    InvalidInputError,
    MissingExtraError,
    ModelMismatchError,
)
from cnclip.evaluate import top_k
from cnclip.search import Index, connect, tuning, vectors
from tests.support.search import DIM, KINDS, MODEL, OTHER, found, made, names, recall, unit

faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed, cnclip's extra `search`")
pytest.importorskip("pyarrow.parquet", reason="cnclip's extra `search` is not installed")


@pytest.mark.parametrize("count", [1, 7, 30, 3000])
def test_exact_search_is_that_of_top_k(count: int) -> None:
    rows, queries = unit(count), unit(20, seed=1)
    ranked = top_k(queries, rows, 10)
    hits = made(rows).search(queries, 10)
    assert [[int(hit.id) for hit in some] for some in hits] == ranked.indices.tolist()
    scores = np.array([[hit.score for hit in some] for some in hits])
    np.testing.assert_allclose(scores, ranked.scores, atol=1e-6)


@pytest.mark.parametrize("copies", [3, 200])
@pytest.mark.parametrize("kind", ["exact", "hnsw"])
def test_equal_vectors_stand_in_their_order_alone_and_in_batches(copies: int, kind: str) -> None:
    rows, query = unit(2000), unit(1, seed=1)
    same = np.arange(5, 5 + 9 * copies, 9)
    rows[same] = query * 0.5 + rows[0] * 0.1
    rows[same] /= np.linalg.norm(rows[same], axis=1, keepdims=True)
    index = made(rows, kind)
    answers = [index.search(query, 50)[0], index.search(np.repeat(query, 40, axis=0), 50)[7]]
    answers.append(index.search_exactly(query, 50)[0])
    for hits in answers if kind == "exact" else answers[2:]:
        equal = [int(hit.id) for hit in hits if hit.score == hits[0].score]
        assert equal == same[:50].tolist()
        assert hits == answers[2]


def test_scores_do_not_depend_on_the_batch() -> None:
    index, queries = made(unit(5000)), unit(64, seed=1)
    together = index.search(queries, 20)
    assert [index.search(query, 20)[0] for query in queries] == together
    assert index.search(queries, 20) == together


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
def test_approximate_search_finds_most_and_says_how_many(kind: str) -> None:
    rows, queries = unit(6000, clusters=50), unit(200, seed=1, clusters=50)
    index = made(rows, kind)
    index.prepare()
    assert index.kind == kind and index.measured is not None
    assert index.measured.queries == 100 and index.measured.milliseconds > 0
    assert index.measured.recall >= 0.9
    truth = top_k(queries, rows, 10)
    assert abs(recall(found(index, queries), truth.indices) - index.measured.recall) < 0.1
    exactly = index.search_exactly(queries, 10)
    if kind == "hnsw":
        assert [[int(hit.id) for hit in some] for some in exactly] == truth.indices.tolist()
    assert recall([[int(h.id) for h in some] for some in exactly], truth.indices) > 0.99


def test_kind_grows_with_the_collection() -> None:
    rows = unit(3000, clusters=20)
    index = Index.create(DIM, model=MODEL, exact_up_to=500, hnsw_up_to=1500)
    kinds = []
    for start in range(0, 3000, 500):
        index.add(rows[start : start + 500], names(500, start))
        kinds.append(index.kind)
    assert kinds == ["exact", "hnsw", "hnsw", "ivfpq", "ivfpq", "ivfpq"]
    truth = top_k(unit(50, seed=1, clusters=20), rows, 10).indices
    assert recall(found(index, unit(50, seed=1, clusters=20)), truth) > 0.7
    assert vectors.choose_kind(200_000) == "exact" and vectors.choose_kind(200_001) == "hnsw"
    assert vectors.choose_kind(2_000_001) == "ivfpq"


def test_codes_have_parts_for_columns_of_any_number() -> None:
    for dim in (1, 7, 48, 100, 640):
        index = made(unit(300, dim), "ivfpq")
        assert len(index.search(unit(1, dim, seed=1), 3)[0]) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_removed_is_not_found_and_may_come_again(kind: str, tmp_path: Path) -> None:
    rows = unit(1000, clusters=10)
    index = made(rows, kind)
    assert index.remove([*names(300), "3", "unknown"]) == 300
    assert len(index) == 700 and index.ids() == names(700, 300)
    assert min(min(line) for line in found(index, rows[:20], 50)) >= 300
    assert index.remove(names(300)) == 0
    index.add(rows[:2], ["0", "new"])
    assert {hit.id for hit in index.search(rows[1], 1)[0]} == {"new"}
    assert index.remove(["new"]) == 1
    before = index.search_exactly(rows[:20])
    index.save(tmp_path / "it.index")
    assert index.removed == 0  # so many are dropped
    assert index.search_exactly(rows[:20]) == before
    loaded = Index.load(tmp_path / "it.index")
    assert loaded.remove(["500"]) == 1
    loaded.save(tmp_path / "it.index")
    again = Index.load(tmp_path / "it.index")
    assert len(again) == 700 and again.removed == (0 if kind == "exact" else 1)
    assert "500" not in {hit.id for hit in again.search(rows[500], 30)[0]}
    assert again.remove(again.ids()) == 700
    assert len(again) == 0 and again.search(rows[:2], 5) == [[], []]
    again.save(tmp_path / "it.index")
    assert len(Index.load(tmp_path / "it.index")) == 0


def test_an_empty_index_finds_nothing(tmp_path: Path) -> None:
    index = Index.create(DIM, model=None)
    index.save(tmp_path / "it.index")
    loaded = Index.load(tmp_path / "it.index")
    assert len(loaded) == 0 and loaded.search(unit(2)) == [[], []]
    loaded.add(unit(2), ["a", "b"])
    assert loaded.search(unit(1))[0][0].id == "a"


def test_what_cannot_be_added_is_named_and_changes_nothing() -> None:
    index, rows = made(unit(5)), unit(2, seed=1)
    longer = rows.copy()
    longer[1] *= 3
    missing = rows.copy()
    missing[0, 0] = np.nan
    for bad, ids, words in (
        (rows[:, :9], ["a", "b"], r"rows: expected floats \[n, 32\], got float32 \[2, 9\]"),
        (rows[0], ["a"], r"\[32\]"),
        (np.ones((2, DIM), np.int64), ["a", "b"], "int64"),
        (longer, ["a", "b"], "row 1 has 3"),
        (missing, ["a", "b"], "row 0 has nan"),
        (rows, ["a"], "ids: expected 2 values, one per row, got 1"),
        (rows, ["a", "a"], "ids: duplicate id 'a'"),
        (rows, ["a", "3"], "'3' is in the index already"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            index.add(bad, ids)
    with pytest.raises(InvalidInputError, match="paths: expected 2"):
        index.add(rows, ["a", "b"], ["only one"])
    with pytest.raises(InvalidInputError, match="UTF-8|surrogates"):
        index.add(rows, ["a", "b"], texts=["good", "\ud800"])
    assert len(index) == 5 and index.ids() == names(5)
    for call in (lambda: index.search(rows, 0), lambda: index.search(rows[:, :3])):
        with pytest.raises(InvalidInputError, match="k: |queries: "):
            call()


def test_arguments_of_create_are_checked() -> None:
    for options in ({"kind": "annoy"}, {"contents": "sounds"}, {"dim": 0}, {"kind": "ivfpq"}):
        with pytest.raises(InvalidInputError, match=next(iter(options))):
            Index.create(**{"dim": 4, "model": None, **options})


def test_vectors_of_another_model_or_precision_are_refused() -> None:
    index = made(unit(5))
    for call in (
        lambda: index.add(unit(1, seed=1), ["a"], model=OTHER),
        lambda: index.search(unit(1), model=OTHER),
    ):
        with pytest.raises(ModelMismatchError, match=r"some \(0123.*another \(fedc"):
            call()
    with pytest.raises(ModelMismatchError, match="fp32, these are of bf16"):
        index.add(unit(1, seed=1), ["a"], model=MODEL, precision="bf16")
    index.add(unit(1, seed=1), ["a"], model=MODEL, precision="fp32")
    assert index.search(unit(1), 1, model=dict(MODEL))[0][0].id == "0"


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors.import_faiss.cache_clear()
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"faiss-cpu is not.*cnclip\[search\]"):
        Index.create(4, model=None)
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(MissingExtraError, match=r"pymilvus is not.*cnclip\[milvus\]"):
        connect("http://127.0.0.1:1")


def test_numbers_of_hits_below_one_are_refused() -> None:
    index = made(unit(10), "exact")
    for search in (index.search, index.search_exactly):
        with pytest.raises(InvalidInputError, match="k: expected 1 or more"):
            search(unit(1), 0)
        with pytest.raises(InputTypeError, match="k: expected int"):
            search(unit(1), 2.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_an_item_and_its_vector_are_found_by_the_id(kind: str) -> None:
    rows = unit(300, clusters=10)
    index = made(rows, kind)
    item = index.item("123")
    assert item is not None
    assert (item[0].id, item[0].score) == ("123", 1.0)
    np.testing.assert_allclose(item[1], rows[123], atol=1e-3 if kind == "ivfpq" else 1e-6)
    index.remove(["123"])
    assert index.item("123") is None and index.item("unknown") is None


def test_an_index_in_words() -> None:
    assert (
        repr(made(unit(2))) == "Index('the index': 2 images, 32 columns, exact; model some, fp32)"
    )
    nameless = Index.create(4, model=None, contents="texts")
    assert "0 texts, 4 columns, exact; model an unknown model" in repr(nameless)


def test_an_approximate_search_may_find_fewer() -> None:
    rows = unit(4000, clusters=100)
    index = made(rows, "ivfpq")
    index._vectors.effort = 1  # one cluster, which has fewer vectors than are asked for
    assert 0 < len(index.search(rows[0], 3000)[0]) < 3000


def test_effort_grows_until_most_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    index = made(unit(3000), "hnsw")
    monkeypatch.setitem(tuning.EFFORTS, "hnsw", (1, 300, 3000))
    index.prepare()
    assert index.measured is not None and index.measured.recall >= 0.95
    assert index._vectors.effort == index.measured.effort == 300
    # The largest one is kept where none is enough.
    monkeypatch.setitem(tuning.EFFORTS, "hnsw", (1, 2))
    few = made(unit(3000), "hnsw")
    few.prepare()
    assert few.measured is not None and few.measured.recall < 0.95
    assert few._vectors.effort == few.measured.effort == 2
