"""A collection in Milvus, tested with Milvus Lite."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from cnclip import bulk
from cnclip.cli import main
from cnclip.errors import InvalidInputError, MilvusError, ModelMismatchError
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.search import (
    Root,
    add_embeddings,
    connect,
    index_embeddings,
    update_embeddings,
)
from cnclip.search.milvus import hide_logs
from tests.support.search import DIM, MODEL, OTHER, made, names, run_json, unit

pytest.importorskip("faiss", reason="faiss-cpu is not installed, cnclip's extra `search`")
pytest.importorskip("pyarrow.parquet", reason="cnclip's extra `search` is not installed")


@pytest.fixture
def milvus(tmp_path: Path) -> str:
    for package in ("pymilvus", "milvus_lite"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed, cnclip's extra `milvus`")
    return str(tmp_path / "milvus.db")


def test_logs_are_hidden_for_milvus_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, pymilvus is not imported."""
    levels = {name: logging.getLogger(name).level for name in ("pymilvus", "milvus_lite")}
    imported: list[None] = []
    monkeypatch.setattr("cnclip.search.milvus._pymilvus", lambda: imported.append(None))
    try:
        hide_logs()
        hide_logs("a.index", "b")
        assert imported == []
        assert {name: logging.getLogger(name).level for name in levels} == levels
        hide_logs("a.index", "http://127.0.0.1:19530")
        assert imported == [None]
        assert all(logging.getLogger(name).level > logging.CRITICAL for name in levels)
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


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
        item = remote.item("7")
        assert item is not None and item[0].path == "/照片/7.png" and item[0].text is None
        np.testing.assert_allclose(item[1], rows[7], atol=1e-6)
        assert remote.item("unknown") is None
        for ids, words in (
            (["a", "5"], "'5' is in the collection"),
            (["a", "\udcff"], "UTF-8"),
            (["a", "长" * 21846], "has more than 65535 bytes"),
        ):
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
    with pytest.raises(InvalidInputError, match="no collection other; it has cnclip"):
        connect(milvus, "other")


def test_a_collection_of_another_program(milvus: str) -> None:
    pymilvus = pytest.importorskip("pymilvus")
    with contextlib.closing(pymilvus.MilvusClient(milvus)) as client:
        client.create_collection("theirs", dimension=4)
    with pytest.raises(MilvusError, match="collection theirs: .*was not created by cnclip"):
        connect(milvus, "theirs")


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


def test_a_second_index_brings_the_collection_up_to_date(
    milvus: str, embeddings: Path, embedder: MultiModalEmbeddingPipeline, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    dim = bulk.open_embeddings(embeddings).dim
    remote = connect(milvus, dim=dim)
    with contextlib.closing(remote):
        remote.add(unit(1, dim), ["/elsewhere/a.png"])
        assert update_embeddings(remote, bulk.open_embeddings(embeddings)) == (40, 0, 0)
        assert update_embeddings(remote, bulk.open_embeddings(embeddings)) == (0, 40, 0)
        assert len(remote) == 41
        first, second, *_ = sorted(photos.iterdir())
        first.unlink()
        second.rename(photos / "new.png")
        bulk.embed(photos, embedder, embeddings)
        assert update_embeddings(remote, bulk.open_embeddings(embeddings)) == (1, 38, 2)
        ids = {id for id, _ in remote.items()}
        assert ids == {path.name for path in photos.iterdir()} | {"/elsewhere/a.png"}
        # Another folder with files of the same names does not replace these.
        other = tmp_path / "other"
        shutil.copytree(photos, other)
        bulk.embed(other, embedder, tmp_path / "more")
        with pytest.raises(InvalidInputError, match=r"of /.*/photos/.*--ids absolute"):
            update_embeddings(remote, bulk.open_embeddings(tmp_path / "more"))
        # The folder moved.
        photos.rename(tmp_path / "moved")
        embeddings_moved = bulk.open_embeddings(embeddings)
        root = Root(tmp_path / "moved")
        assert update_embeddings(remote, embeddings_moved, root=root) == (0, 39, 0)
        paths = dict(remote.items())
        assert paths["new.png"] == str(tmp_path / "moved" / "new.png")


def test_milvus_lite_from_the_command_line(
    milvus: str, embeddings: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for expected in ("40 images added, 0 replaced", "0 images added, 40 replaced, 0 removed"):
        assert main(["index", str(embeddings), "-o", milvus, "--device", "cpu"]) == 0
        assert expected in capsys.readouterr().out
    found = run_json(capsys, milvus, "猫", "-k", "3")
    assert len(found) == 3 and all(Path(one["path"]).parent == tmp_path / "photos" for one in found)


def test_commands_print_only_their_own_messages(
    milvus: str,
    embeddings: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "more"):
        given = ["index", str(embeddings), "-o", milvus, "--collection", name, "--device", "cpu"]
        assert main(given) == 0
    Path("other.db").write_text("no database", encoding="utf-8")
    capfd.readouterr()
    for address, options, expected in (
        (milvus, [], f"{milvus}: has no collection cnclip; it has more, photos"),
        (milvus, ["--database", "nowhere"], f"{milvus}: database 'nowhere' does not exist"),
        ("missing.db", [], "missing.db: no such file"),
        ("other.db", [], "another program may have opened it, or another version written it"),
    ):
        assert main(["search", address, "猫", *options]) == 2
        printed = capfd.readouterr().err
        assert printed.startswith("cnclip search: ") and printed.count("\n") == 1
        assert printed.endswith(f"{expected}\n")
    assert not Path("missing.db").exists()


def test_texts_are_not_mixed_with_images(
    milvus: str, embeddings: Path, embedder: MultiModalEmbeddingPipeline, tmp_path: Path
) -> None:
    images = bulk.open_embeddings(embeddings)
    source = tmp_path / "texts.txt"
    source.write_text("猫\n狗\n", encoding="utf-8")
    bulk.embed(source, embedder, tmp_path / "texts", bulk.EmbedOptions(kind="texts"))
    texts = bulk.open_embeddings(tmp_path / "texts")
    with contextlib.closing(connect(milvus, dim=images.dim, model=images.model)) as remote:
        add_embeddings(remote, images)
        for fill in (add_embeddings, update_embeddings):
            with pytest.raises(InvalidInputError, match="has images, these are texts"):
                fill(remote, texts)
        assert len(remote) == 40
    index = index_embeddings(texts)
    with pytest.raises(InvalidInputError, match="has texts, these are images"):
        add_embeddings(index, images)
    assert len(index) == 2


def test_token_and_database_reach_milvus(
    monkeypatch: pytest.MonkeyPatch, embeddings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pymilvus = pytest.importorskip("pymilvus", reason="cnclip's extra `milvus` is not installed")
    asked: list[dict[str, object]] = []

    def refuse(uri: str, **options: object) -> None:
        asked.append({"uri": uri, **options})
        raise pymilvus.MilvusException(message="not now")

    monkeypatch.setattr(pymilvus, "MilvusClient", refuse)
    address = "http://127.0.0.1:9"
    given = ["--token", "me:secret", "--database", "photos"]
    assert main(["search", address, "猫", *given]) == 2
    monkeypatch.setenv("MILVUS_TOKEN", "key")
    monkeypatch.setenv("MILVUS_DATABASE", "other")
    assert main(["index", str(embeddings), "-o", address, "--device", "cpu"]) == 2
    values = [(one["uri"], one["token"], one["db_name"]) for one in asked]
    assert values == [(address, "me:secret", "photos"), (address, "key", "other")]
    assert "secret" not in capsys.readouterr().err


def test_milvus_that_does_not_answer_is_named(milvus: str) -> None:
    with pytest.raises(MilvusError, match=r"http://127\.0\.0\.1:9: ") as raised:
        connect("http://127.0.0.1:9", timeout=1)
    assert isinstance(raised.value, ConnectionError)


def test_the_password_of_the_address_is_hidden() -> None:
    with pytest.raises(MilvusError) as raised:
        connect("http://user:SECRET@127.0.0.1:9", timeout=1)
    assert "SECRET" not in str(raised.value) and "***@127.0.0.1:9" in str(raised.value)
