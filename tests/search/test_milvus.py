"""A collection in Milvus, tested with Milvus Lite."""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path

import pytest

from cnclip import bulk
from cnclip.errors import InvalidInputError, MilvusError, ModelMismatchError
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.search import add_embeddings, connect, index_embeddings
from tests.support.search import DIM, MODEL, OTHER, made, names, unit

pytest.importorskip("faiss", reason="faiss-cpu is not installed, cnclip's extra `search`")
pytest.importorskip("pyarrow.parquet", reason="cnclip's extra `search` is not installed")


@pytest.fixture
def milvus(tmp_path: Path) -> str:
    for package in ("pymilvus", "milvus_lite"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed, cnclip's extra `milvus`")
    return str(tmp_path / "milvus.db")


def test_milvus_finds_what_an_index_finds(milvus: str) -> None:
    rows, queries = unit(1500), unit(5, seed=1)
    with contextlib.closing(connect(milvus, dim=DIM, model=MODEL, temperature=0.1)) as remote:
        remote.add(rows, names(1500), [f"/照片/{number}.png" for number in range(1500)])
        assert len(remote) == 1500
        local = made(rows).search(queries, 7)
        hits = remote.search(queries, 7)
        assert [[h.id for h in some] for some in hits] == [[h.id for h in some] for some in local]
        assert hits[0][0].score == pytest.approx(local[0][0].score, abs=1e-5)
        assert hits[0][0].path == f"/照片/{hits[0][0].id}.png" and hits[0][0].text is None
        assert sum(hit.probability or 0 for hit in hits[0]) == pytest.approx(1)
        first = hits[0][0].id
        assert remote.remove([first, "unknown"]) == 1 and len(remote) == 1499
        assert first not in {hit.id for hit in remote.search(queries[0], 7)[0]}
        for ids, words in ((["a", "5"], "'5' is in the collection"), (["a", "\udcff"], "UTF-8")):
            with pytest.raises(InvalidInputError, match=words):
                remote.add(unit(2, seed=3), ids)
        for options in ({"model": OTHER}, {"precision": "int8"}):
            with pytest.raises(ModelMismatchError):
                remote.add(unit(1, seed=3), ["a"], **options)
        assert len(remote) == 1499
    with contextlib.closing(connect(milvus, model=MODEL)) as again:
        assert (again.dim, again.model, again.precision) == (DIM, MODEL, "fp32")
        assert len(again) == 1499
    with pytest.raises(ModelMismatchError, match=r"some \(0123.*another"):
        connect(milvus, model=OTHER)
    with pytest.raises(InvalidInputError, match="no collection 'other'"):
        connect(milvus, "other")


def test_milvus_is_filled_and_asked_by_a_pipeline(
    milvus: str, embeddings: Path, embedder: MultiModalEmbeddingPipeline
) -> None:
    opened = bulk.open_embeddings(embeddings)
    remote = connect(milvus, "photos", dim=opened.dim, model=opened.model)
    with contextlib.closing(remote):
        add_embeddings(remote, opened)
        answer = remote.find(embedder, image=opened.paths[3], k=2)
        assert answer.hits[0].path == opened.paths[3] and answer.suggested is None
        local = index_embeddings(embeddings).find(embedder, text="笑脸", k=5).hits
        hits = remote.find(embedder, text="笑脸", k=5).hits
        assert [hit.id for hit in hits] == [hit.id for hit in local]


def test_milvus_that_does_not_answer_is_named(milvus: str) -> None:
    with pytest.raises(MilvusError, match=r"http://127\.0\.0\.1:9: ") as raised:
        connect("http://127.0.0.1:9", timeout=1)
    assert isinstance(raised.value, ConnectionError)


def test_the_password_of_the_address_is_hidden() -> None:
    with pytest.raises(MilvusError) as raised:
        connect("http://user:SECRET@127.0.0.1:9", timeout=1)
    assert "SECRET" not in str(raised.value) and "***@127.0.0.1:9" in str(raised.value)
