"""`cnclip.search`, its two commands: exactness, files, damage, the gallery, Milvus."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import webbrowser
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cnclip import (
    CnclipError,
    EmbeddingsError,
    ImageError,
    IndexFileError,
    IndexNotFoundError,
    InvalidInputError,
    MilvusError,
    MissingExtraError,
    ModelMismatchError,
    bulk,
    demo,
    load_image,
    pipeline,
)
from cnclip.assets import asset_path
from cnclip.bulk import lookup
from cnclip.cli import main
from cnclip.datasets import write_split
from cnclip.evaluate import top_k
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.search import Index, add_embeddings, index_embeddings, terminal, vectors
from cnclip.search.scores import nonsense_texts, probabilities

faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed, cnclip's extra `search`")
pyarrow = pytest.importorskip("pyarrow", reason="cnclip's extra `search` is not installed")
pytest.importorskip("pyarrow.parquet")

GALLERY = asset_path("gallery")
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


@pytest.fixture(scope="module")
def embedder() -> MultiModalEmbeddingPipeline:
    return pipeline(model="emoji-cn", device="cpu")


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the gallery, as the command makes it."""
    path = tmp_path_factory.mktemp("gallery") / "gallery.index"
    assert main(["index", str(GALLERY), "-o", str(path), "--device", "cpu"]) == 0
    return path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("this user may not mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


# Exactness


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


# Adding and removing


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
        (rows, ["a"], "ids: expected 2, as rows, got 1"),
        (rows, ["a", "a"], "'a' is there twice"),
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


# Files


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_an_index_comes_back_as_it_was(kind: str, mapped: bool, tmp_path: Path) -> None:
    rows = unit(1000, clusters=10)
    index = Index.create(
        DIM,
        model=MODEL,
        precision="bf16",
        contents="texts",
        temperature=0.02,
        kind=kind,
        sample=rows,
    )
    paths = ["/photos/\udcff 猫.png", "http://example.com/1.jpg"] * 500
    index.add(rows, names(1000), paths, [f"第{number}句" for number in range(1000)])
    index.remove(["7"])
    index.save(tmp_path / "it.index")
    loaded = Index.load(tmp_path / "it.index", mapped=mapped)
    for name in ("kind", "dim", "model", "precision", "contents", "temperature", "measured"):
        assert getattr(loaded, name) == getattr(index, name), name
    assert loaded.thresholds == index.thresholds and set(loaded.thresholds) == {"text"}
    assert len(loaded) == 999 and loaded.ids() == index.ids()
    queries = unit(10, seed=1, clusters=10)
    assert loaded.search(queries) == index.search(queries)
    hit = loaded.search(rows[0], 1)[0][0]
    assert (hit.path, hit.text, hit.id) == ("/photos/\udcff 猫.png", "第0句", "0")
    assert sum(hit.probability or 0 for hit in loaded.search(queries)[0]) == pytest.approx(1)
    loaded.add(unit(1, seed=2), ["more"])  # of a mapped one, copied first
    assert loaded.search(unit(1, seed=2), 1)[0][0].id == "more"
    loaded.save(tmp_path / "it.index")
    assert "more" in Index.load(tmp_path / "it.index").ids()
    assert [path.name for path in tmp_path.iterdir()] == ["it.index"]


def test_faiss_opens_the_file_itself(tmp_path: Path) -> None:
    rows = unit(100)
    made(rows).save(tmp_path / "it.index")
    alone = faiss.read_index(str(tmp_path / "it.index"))
    assert alone.search(rows[:3], 1)[1].ravel().tolist() == [0, 1, 2]


def test_a_mapped_index_takes_no_memory_of_its_own(tmp_path: Path, run_python: Any) -> None:
    rows = unit(40_000, 256)
    made(rows).save(tmp_path / "it.index")
    made(rows[:99]).save(tmp_path / "small.index")
    code = (
        "import sys\n"
        "from cnclip.search import Index\n"
        "def own():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return next(int(l.split()[1]) >> 10 for l in lines if l.startswith('RssAnon'))\n"
        "Index.load(sys.argv[2]).search([[1.0] + [0.0] * 255])\n"  # what the libraries take
        "before = own()\n"
        "index = Index.load(sys.argv[1])\n"
        "index.search([[1.0] + [0.0] * 255])\n"
        "print(own() - before)\n"
    )
    if os.environ.get("CNCLIP_SANITIZE") or not Path("/proc/self/status").exists():
        pytest.skip("memory is not what is measured here")
    assert int(run_python(code, *sorted(tmp_path.iterdir())).stdout) < 20  # of 41 MB


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "short": lambda content: content[:20],
    "cut": lambda content: content[:-1],
    "half": lambda content: content[: len(content) // 2],
    "other": lambda content: b"\x89PNG" * 100,
    "vectors": lambda content: content[:999] + bytes([content[999] ^ 1]) + content[1000:],
    "beginning": lambda content: bytes(8) + content[8:],
    "items": lambda content: content.replace(b"ARROW1", b"ARROW2", 1),
    "description": lambda content: content.replace(b'"some"', b'"same"'),
    "hole": lambda content: content[:3000] + content[4000:],
    "version": lambda content: reformatted(content, {"format": 99}),
    "nothing": lambda content: reformatted(content, {"parts": None}),
    "length": lambda content: content[:-40] + b"\xff" * 8 + content[-32:],
}


def reformatted(content: bytes, changes: dict[str, Any]) -> bytes:
    """An index with another description, whose checksum is right."""
    length = int.from_bytes(content[-40:-32], "little")
    start = len(content) - 48 - length
    text = json.dumps({**json.loads(content[start:-48]), **changes}).encode()
    trailer = content[-48:-40] + len(text).to_bytes(8, "little") + hashlib.sha256(text).digest()
    return content[:start] + text + trailer


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_index_is_refused_by_name(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "it.index"
    made(unit(100)).save(path)
    whole = path.read_bytes()
    damaged = DAMAGE[damage](whole)
    assert damaged != whole
    path.write_bytes(damaged)
    with pytest.raises(IndexFileError, match=r"it\.index: ") as raised:
        Index.load(path)
    assert isinstance(raised.value, ValueError) and isinstance(raised.value, CnclipError)
    path.write_bytes(whole)
    assert len(Index.load(path)) == 100


def test_what_is_no_index_is_said(tmp_path: Path) -> None:
    with pytest.raises(IndexNotFoundError, match=r"no\.index: no such index") as raised:
        Index.load(tmp_path / "no.index")
    assert isinstance(raised.value, FileNotFoundError)
    with pytest.raises(IndexFileError, match="expected the file of an index"):
        Index.load(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(IndexFileError, match="fifo: expected the file"):
        Index.load(tmp_path / "fifo")


def test_names_need_not_be_utf8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff\xfe.index")
    made(unit(20)).save(path)
    index = Index.load(str(path))
    assert index.search(unit(1), 1)[0][0].id == "0"
    index.save(path)
    assert os.listdir(os.fsencode(tmp_path)) == [b"\xff\xfe.index"]


def test_a_full_disk_leaves_what_was_there(small_disk: Path) -> None:
    path = small_disk / "it.index"
    index = made(unit(500))
    index.save(path)
    before = path.read_bytes()
    for number, count in enumerate((1200, 20_000)):  # full in a buffer, and in a large write
        index.add(unit(count, seed=2 + number), names(count, 1000 + 10_000 * number))
        with pytest.raises(OSError, match=r"No space left on device: '.*it\.index'"):
            index.save(path)
        assert path.read_bytes() == before
        assert [one.name for one in small_disk.iterdir()] == ["it.index"]
    assert len(Index.load(path)) == 500


def test_a_read_only_folder_is_named(small_disk: Path) -> None:
    path = small_disk / "it.index"
    made(unit(50)).save(path)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    index = Index.load(path)
    index.add(unit(1, seed=1), ["more"])
    with pytest.raises(OSError, match=r"Read-only file system: '.*/it\.index'"):
        index.save(path)
    assert len(Index.load(path)) == 50


def test_an_interrupted_save_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "it.index"
    index = made(unit(50))
    index.save(path)
    before = path.read_bytes()

    def interrupted(self: Any) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr("cnclip.search.items.Items.to_bytes", interrupted)
    index.add(unit(1, seed=1), ["more"])
    with pytest.raises(KeyboardInterrupt):
        index.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors.import_faiss.cache_clear()
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"faiss-cpu is not.*cnclip\[search\]"):
        Index.create(4, model=None)
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(MissingExtraError, match=r"pymilvus is not.*cnclip\[milvus\]"):
        Index.connect("http://127.0.0.1:1")


# Embeddings of a folder


@pytest.fixture
def embeddings(tmp_path: Path, embedder: MultiModalEmbeddingPipeline) -> Path:
    """Embeddings of forty images in three shards."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in sorted(GALLERY.glob("*.png"))[:40]:
        shutil.copy(path, photos)
    bulk.embed(photos, embedder, output=tmp_path / "out", shard_items=15)
    return tmp_path / "out"


@pytest.mark.parametrize("kind", ["auto", "hnsw"])
def test_embeddings_become_an_index(
    kind: str, embeddings: Path, embedder: MultiModalEmbeddingPipeline
) -> None:
    index = index_embeddings(embeddings, kind=kind)
    opened = bulk.open_embeddings(embeddings)
    assert len(index) == opened.rows == 40 and index.ids() == opened.ids
    assert index.model == opened.model == bulk.model_identity(embedder)
    assert (index.kind, index.contents) == ("exact" if kind == "auto" else kind, "images")
    answer = index.find(embedder, image=opened.paths[20], k=3)
    assert answer.hits[0].path == opened.paths[20] and answer.hits[0].score > 0.999
    with pytest.raises(InvalidInputError, match="is in the index already"):
        add_embeddings(index, opened)


def test_many_embeddings_are_coded_after_training_on_some(
    tmp_path: Path, embedder: MultiModalEmbeddingPipeline
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(nonsense_texts(embedder.model.info.vocabulary, 600, 5)), "utf-8")
    bulk.embed(texts, embedder, output=tmp_path / "out", kind="texts", shard_items=250)
    index = index_embeddings(tmp_path / "out", exact_up_to=100, hnsw_up_to=200)
    assert (index.kind, index.contents, len(index)) == ("ivfpq", "texts", 600)
    wanted = texts.read_text("utf-8").splitlines()[123]
    hit = index.find(embedder, text=wanted, k=1).hits[0]
    assert hit.text == wanted and hit.score > 0.99


def test_missing_and_damaged_shards_are_named(embeddings: Path) -> None:
    shard = sorted(embeddings.glob("*.npy"))[1]
    content = shard.read_bytes()
    for change in (lambda: shard.write_bytes(content[:-1]), shard.unlink):
        change()
        with pytest.raises(EmbeddingsError, match=shard.name):
            index_embeddings(embeddings)
    with pytest.raises(EmbeddingsError, match="manifest"):
        index_embeddings(embeddings.parent / "photos")


# Queries and scores


def test_a_query_of_another_model_is_refused(
    gallery: Path, vit: MultiModalEmbeddingPipeline
) -> None:
    index = Index.load(gallery)
    with pytest.raises(ModelMismatchError, match=r"gallery\.index.*emoji-cn.*tiny-vit"):
        index.find(vit, text="猫")


def test_texts_and_images_are_mixed_by_weight(
    gallery: Path, embedder: MultiModalEmbeddingPipeline
) -> None:
    index, car = Index.load(gallery), str(GALLERY / "1f697.png")
    text, image = (index.find(embedder, *query, k=5) for query in (("猫",), (None, car)))
    assert image.hits[0].path.endswith("1f697.png")
    for weight, alone in ((1.0, text), (0.0, image)):
        mixed = index.find(embedder, "猫", car, k=5, weight=weight)
        assert [hit.id for hit in mixed.hits] == [hit.id for hit in alone.hits]
        assert mixed.suggested is None
    rows = embedder.forward({"text": "猫", "img": car})
    mean = 0.3 * rows["text_embedding"] + 0.7 * rows["img_embedding"]
    expected = index.search(mean / np.linalg.norm(mean), 5)[0]
    assert index.find(embedder, "猫", car, k=5, weight=0.3).hits == expected
    for query, options, words in (
        ((None, None), {}, "got neither"),
        ((" ", None), {}, "empty"),
        (("猫", car), {"weight": 1.5}, "weight"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            index.find(embedder, *query, **options)
    with pytest.raises(ImageError, match=r"nowhere\.png"):
        index.find(embedder, image="nowhere.png")


def test_probabilities_are_the_softmax_of_what_was_found(
    gallery: Path, embedder: MultiModalEmbeddingPipeline
) -> None:
    hits = Index.load(gallery).find(embedder, "生日蛋糕", k=4).hits
    shares = np.exp(np.array([hit.score for hit in hits]) / float(embedder.model.temperature))
    assert [hit.probability for hit in hits] == pytest.approx(shares / shares.sum())
    assert probabilities([1.0, -1.0], 1e-6).tolist() == [1, 0]
    kept = Index.load(gallery).find(embedder, "生日蛋糕", k=4, threshold=hits[1].score).hits
    assert kept == hits[:2]


def test_suggested_thresholds_tell_nonsense_from_words(
    gallery: Path, embedder: MultiModalEmbeddingPipeline
) -> None:
    index = Index.load(gallery)
    suggested = index.find(embedder, "猫", k=1).suggested
    assert suggested == index.thresholds["text"]

    def share_above(texts: list[str]) -> float:
        rows = embedder.forward({"text": texts})["text_embedding"]
        return float(np.mean([hits[0].score >= suggested for hits in index.search(rows, 1)]))

    vocabulary = embedder.model.info.vocabulary
    nonsense = share_above(nonsense_texts(vocabulary, 400, seed=1))
    # One in ten by definition; others than those that it was defined by.
    assert 0.04 < nonsense < 0.18
    words = share_above([image.label for image in demo.load_gallery()])
    assert words > 2 * nonsense
    assert share_above(["量子力学讲座", "资产负债表", "qwertyuiop", "12345678"]) == 0
    images = index.find(embedder, image=str(GALLERY / "1f408.png"), k=50)
    assert images.suggested == index.thresholds["image"]
    assert 1 <= sum(hit.score >= (images.suggested or 0) for hit in images.hits) < 40
    assert nonsense_texts(b"[UNK]\nabc\n") == []


# The commands


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["search", *arguments, "--json", "--device", "cpu"]) == 0
    answer: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return answer


def files(answer: list[dict[str, Any]]) -> list[str]:
    return [Path(one["path"]).stem for one in answer]


def test_gallery_is_searched_with_words(gallery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = run_json(capsys, str(gallery), "猫", "-k", "5")
    assert all(set(one) == {"path", "score"} for one in answer) and len(answer) == 5
    scores = [one["score"] for one in answer]
    assert scores == sorted(scores, reverse=True) and scores[-1] >= -1
    assert files(answer)[0] in {"1f408", "1f431"} and {"1f408", "1f431"} <= set(files(answer))
    assert all(Path(one["path"]).is_file() for one in answer)
    labels = {p.path.stem: p.label for p in demo.load_gallery()}
    for query, wanted in (("蝴蝶", "蝴蝶"), ("大哭", "放声大哭"), ("生日蛋糕", "生日蛋糕")):
        got = [labels[name] for name in files(run_json(capsys, str(gallery), query, "-k", "5"))]
        assert wanted in got
    image = str(GALLERY / "1f408.png")
    alike = run_json(capsys, str(gallery), "--image", image, "-k", "3")
    assert files(alike)[0] == "1f408" and alike[0]["score"] > 0.999
    both = run_json(capsys, str(gallery), "猫", "--image", image, "--threshold", "0.99")
    assert both == []
    assert (
        run_json(capsys, str(gallery), "猫", "--threshold", str(scores[1]), "-k", "9") == answer[:2]
    )


def test_gallery_is_printed_as_a_table(gallery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", str(gallery), "猫", "-k", "3", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["cosine", "share", "found"]
    assert re.fullmatch(r"1 +0\.\d{3} +\d+\.\d% +.*1f4(08|31)\.png", lines[2])
    assert re.search(r"of these 3 \(of 362\) reach 0\.\d{3}", lines[-1])


def test_a_model_that_is_gone_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "it.index"
    made(unit(5)).save(path)
    assert main(["search", str(path), "猫", "--device", "cpu"]) == 2
    assert f"{path} was made with it: --model says where" in capsys.readouterr().err


def test_images_in_archives_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [GALLERY / f"{code}.png" for code in ("1f408", "1f697", "1f382")]
    with tarfile.open(tmp_path / "some.tar", "w") as tar:
        tar.add(images[0], "cat.png")
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.write(images[1], "inner/car.png")
    table = pyarrow.table({"image": [images[2].read_bytes()]})
    pyarrow.parquet.write_table(table, tmp_path / "some.parquet")
    write_split(tmp_path, "test", [(7, (GALLERY / "1f98a.png").read_bytes())], [(0, "狐狸", [7])])
    names = ("some.tar", "some.zip", "some.parquet", "test_imgs.tsv")
    sources = [tmp_path / name for name in names]
    bulk.embed(sources, "emoji-cn", output=tmp_path / "out", device="cpu")
    path = tmp_path / "some.index"
    assert main(["index", str(tmp_path / "out"), "-o", str(path), "--device", "cpu"]) == 0
    capsys.readouterr()
    answer = run_json(capsys, str(path), "猫")
    ids = {Path(one["path"]).name: one["id"] for one in answer}
    assert ids == {
        "some.tar": f"{tmp_path / 'some.tar'}:cat",
        "some.zip": f"{tmp_path / 'some.zip'}:inner/car.png",
        "some.parquet": f"{tmp_path / 'some.parquet'}:1",
        "test_imgs.tsv": "7",
    }
    query = ["search", str(path), "猫", "--device", "cpu"]
    assert main([*query, "--html", str(tmp_path / "found.html")]) == 0
    text = (tmp_path / "found.html").read_text("utf-8")
    assert len(re.findall(r'src="data:image/webp;base64,', text)) == 4
    assert "href" not in text and "some.zip:inner/car.png" in text
    # What was changed since is no image of that id any more, and nothing else is lost.
    (tmp_path / "some.zip").write_bytes(b"no zip")
    (tmp_path / "some.tar").unlink()
    assert main([*query, "--html", str(tmp_path / "found.html")]) == 0
    text = (tmp_path / "found.html").read_text("utf-8")
    assert len(re.findall(r'src="data:image/webp;base64,', text)) == 2
    assert text.count("<span>?</span>") == 2
    for wrong in (f"{tmp_path / 'some.parquet'}:2", "8"):
        holder = tmp_path / ("test_imgs.tsv" if wrong == "8" else "some.parquet")
        with pytest.raises(ImageError, match=re.escape(wrong)):
            bulk.open_recorded(wrong, str(holder))
    image = bulk.open_recorded("7", str(tmp_path / "test_imgs.tsv"))
    assert np.array_equal(image, load_image(GALLERY / "1f98a.png"))


def test_a_fifo_in_a_images_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cat.png")
    os.mkfifo(tmp_path / "some.tar")
    for path in (tmp_path / "cat.png", tmp_path / "some.tar"):
        with pytest.raises(ImageError, match=f"{path}: .*not a file"):
            bulk.open_recorded("cat", str(path))
    with pytest.raises(ImageError, match="no such file"):
        bulk.open_recorded("dog", str(tmp_path / "dog.png"))


def test_an_archive_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "some.tar"
    with tarfile.open(path, "w") as tar:
        for code in ("1f408", "1f697", "1f382"):
            tar.add(GALLERY / f"{code}.png", f"{code}.png")
    listed: list[str] = []
    open_sources = lookup.open_sources

    def counted(path: str) -> Any:
        listed.append(path)
        time.sleep(0.05)
        return open_sources(path)

    monkeypatch.setattr(lookup, "open_sources", counted)
    ids = [f"{path}:{code}" for code in ("1f408", "1f697", "1f382")] * 4
    with ThreadPoolExecutor(4) as threads:
        sizes = {one.size for one in threads.map(lambda id: bulk.open_recorded(id, str(path)), ids)}
    assert len(sizes) == 1 and listed == [str(path)]
    monkeypatch.setattr(lookup, "MAX_ARCHIVE", 2)
    os.utime(path, (1, 1))
    for id in ids:
        with pytest.raises(ImageError, match="more than 2 images"):
            bulk.open_recorded(id, str(path))
    assert len(listed) == 2


def test_page_has_its_images_in_it(
    gallery: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    page = tmp_path / "found.html"
    query = ["search", str(gallery), "<猫>", "-k", "4", "--device", "cpu"]
    assert main([*query, "--html", str(page)]) == 0
    text = page.read_text("utf-8")
    assert not opened and html.escape("<猫>") in text and "<猫>" not in text
    sources = re.findall(r'src="([^"]*)"', text)
    assert len(sources) == 4 and all(one.startswith("data:image/webp;base64,") for one in sources)
    with Image.open(io.BytesIO(base64.b64decode(sources[0].partition(",")[2]))) as image:
        assert image.size == (96, 96)
    assert "http" not in text and text.count('href="file:///') == 4
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    capsys.readouterr()
    assert main([*query, "--open"]) == 0
    assert opened == [Path(capsys.readouterr().out.strip()).as_uri()]
    assert len(list(tmp_path.glob("cnclip-*.html"))) == 1


def test_folder_with_odd_files_is_indexed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    shutil.copy(GALLERY / "1f431.png", photos / os.fsdecode(b"\xff cat.png"))
    shutil.copy(GALLERY / "1f697.png", photos / "car\n.png")
    (photos / "broken.png").write_bytes(b"no image")
    (photos / "loop").symlink_to(photos)
    os.mkfifo(photos / "fifo.png")
    monkeypatch.chdir(tmp_path)
    command = ["index", "photos", "-o", "mine.index", "--device", "cpu"]
    assert main(command) == 1
    printed = capsys.readouterr()
    assert "2 images, exact; model emoji-cn, fp32" in printed.out
    assert all(name in printed.err for name in ("broken.png: ", "fifo.png: "))
    answer = run_json(capsys, "mine.index", "猫")
    assert answer[0]["path"].endswith("%FF%20cat.png")  # a URL of the file
    assert main(["search", "mine.index", "猫", "--device", "cpu", "--html", "x.html"]) == 0
    assert (tmp_path / "x.html").read_text("utf-8").count("<img ") == 2
    assert main(["search", "mine.index", "汽车", "--device", "cpu"]) == 0
    assert "car\\n.png" in capsys.readouterr().out
    (photos / "broken.png").unlink()
    (photos / "fifo.png").unlink()
    shutil.copy(GALLERY / "1f408.png", photos)
    assert main(command) == 0
    assert len(Index.load("mine.index")) == 3
    assert sorted(path.name for path in tmp_path.glob("mine*")) == ["mine.embeddings", "mine.index"]


def test_embeddings_of_texts_are_searched(
    tmp_path: Path,
    embedder: MultiModalEmbeddingPipeline,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_text("红色的汽车\n一只猫\n生日蛋糕\n", "utf-8")
    bulk.embed("texts.txt", embedder, output="out", kind="texts")
    assert main(["index", "out", "-o", "texts.index", "--device", "cpu"]) == 0
    answer = run_json(capsys, "texts.index", "猫", "-k", "2")
    assert answer[0]["text"] == "一只猫" and set(answer[0]) == {"path", "score", "text"}
    assert run_json(capsys, "texts.index", "--image", str(GALLERY / "1f382.png"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["search", "no.index", "猫"], "no.index: no such index"),
        (["search", "photo.index", "猫"], "photo.index: not an index"),
        (["search", "{gallery}"], "expected TEXT, --image FILE, or both"),
        (["search", "{gallery}", " "], "empty"),
        (["search", "{gallery}", "猫", "--image", "no.png"], "no.png"),
        (["search", "{gallery}", "猫", "--json", "--open"], "--open"),
        (["search", "{gallery}", "猫", "--json", "--html", "x.html"], "--html"),
        (["search", "{gallery}", "猫", "-k", "0"], "-k"),
        (["search", "{gallery}", "猫", "--threshold", "2"], "--threshold"),
        (["search", "{gallery}", "猫", "--model", "nowhere"], "nowhere"),
        (["index", "nowhere", "-o", "x.index"], "nowhere: no such folder"),
        (["index", "empty", "-o", "x.index"], "empty"),
        (["index", "empty", "-o", "no/x.index"], "no: no such directory"),
        (["index", "empty", "-o", "empty"], "is a directory"),
        (["index", "unfinished", "-o", "x.index"], "not finished"),
    ],
)
def test_bad_usage_is_named(
    arguments: list[str],
    words: str,
    gallery: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "unfinished.json").touch()
    shutil.copy(GALLERY / "1f408.png", tmp_path / "photo.index")
    capsys.readouterr()
    try:
        status = main([one.format(gallery=gallery) for one in arguments])
    except SystemExit as stopped:  # argparse's own
        status = int(stopped.code or 0)
    printed = capsys.readouterr()
    assert status == 2 and words in printed.err.splitlines()[-1] and printed.out == ""
    assert not (tmp_path / "x.index").exists()


@pytest.mark.parametrize("command", ["index", "search"])
def test_help_imports_neither_faiss_nor_torch(command: str, run_python: Any) -> None:
    code = (
        "import contextlib, sys\n"
        "from cnclip.cli import main\n"
        "with contextlib.suppress(SystemExit):\n"
        "    main([sys.argv[1], '--help'])\n"
        "print([n for n in ('faiss', 'torch', 'pymilvus', 'pyarrow') if n in sys.modules])\n"
    )
    output = run_python(code, command).stdout
    assert output.startswith("usage: ") and output.endswith("[]\n")


# Images in a terminal


@pytest.mark.parametrize(
    ("environment", "how"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "mlterm"}, "sixel"),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}, None),
        ({"TERM": "xterm-kitty", "CNCLIP_GRAPHICS": "none"}, None),
        ({"TERM": "xterm", "CNCLIP_GRAPHICS": "sixel"}, "sixel"),
        ({}, None),
    ],
)
def test_terminals_are_known_by_the_environment(
    environment: dict[str, str], how: str | None
) -> None:
    assert terminal.protocol(environment, True) == how
    assert terminal.protocol(environment, False) is None


def test_kitty_and_iterm_get_the_image_whole() -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (80, 90, 3), np.uint8))
    text = terminal.encode(image, "kitty")
    parts = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    assert len(parts) > 1 and "".join(f"\x1b_G{k};{c}\x1b\\" for k, c in parts) == text
    assert "a=T" in parts[0][0] and "f=100" in parts[0][0]
    assert [keys[-3:] for keys, _ in parts] == ["m=1"] * (len(parts) - 1) + ["m=0"]
    assert all(len(chunk) == 4096 for _, chunk in parts[:-1])
    iterm = re.fullmatch(r"\x1b\]1337;File=([^:]*):(.*)\a", terminal.encode(image, "iterm"))
    assert iterm is not None and "inline=1" in iterm[1]
    for content in ("".join(chunk for _, chunk in parts), iterm[2]):
        with Image.open(io.BytesIO(base64.b64decode(content))) as sent:
            np.testing.assert_array_equal(np.asarray(sent), np.asarray(image))


def drawn(text: str) -> NDArray[np.uint8]:
    """What a sixel terminal draws."""
    match = re.fullmatch(r'\x1bPq"1;1;(\d+);(\d+)(.*)\x1b\\', text, re.DOTALL)
    assert match is not None
    canvas = np.zeros((int(match[2]) + 6, int(match[1]), 3), np.uint8)
    colors: dict[str, list[int]] = {}
    color, x, y = [0, 0, 0], 0, 0
    token = re.compile(r"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|!(\d+)([?-~])|([?-~])|([$-])")
    at = 0
    while at < len(match[3]):
        found = token.match(match[3], at)
        assert found is not None
        at = found.end()
        number, *rgb, chosen, count, repeated, one, motion = found.groups()
        if number:
            colors[number] = [round(int(part) * 2.55) for part in rgb]
        elif chosen:
            color = colors[chosen]
        elif motion:
            x, y = 0, y + 6 * (motion == "-")
        else:
            end = x + int(count or 1)
            for bit in range(6):
                if ord(repeated or one) - 63 >> bit & 1:
                    canvas[y + bit, x:end] = color
            x = end
    return canvas[: int(match[2])]


@pytest.mark.parametrize("size", [(96, 96), (50, 31), (1, 1)])
def test_sixel_draws_the_image(size: tuple[int, int]) -> None:
    with Image.open(GALLERY / "1f431.png") as opened:
        image = opened.convert("RGB").resize(size)
    got = drawn(terminal.encode(image, "sixel")).astype(int)
    assert got.shape == (size[1], size[0], 3)
    assert np.abs(got - np.asarray(image).astype(int)).mean() < 6


def test_thumbnails_are_printed_where_the_terminal_draws(
    gallery: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnclip.search.terminal.protocol", lambda environment, tty: "kitty")
    assert main(["search", str(gallery), "猫", "-k", "2", "--device", "cpu"]) == 0
    output = capsys.readouterr().out
    assert output.count("a=T") == 2 and re.search(r"\n1  0\.\d+  .*png\n\x1b_G", output)


# Milvus, by Milvus Lite


@pytest.fixture
def milvus(tmp_path: Path) -> str:
    for package in ("pymilvus", "milvus_lite"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed, cnclip's extra `milvus`")
    return str(tmp_path / "milvus.db")


def test_milvus_finds_what_an_index_finds(milvus: str) -> None:
    rows, queries = unit(1500), unit(5, seed=1)
    with contextlib.closing(Index.connect(milvus, dim=DIM, model=MODEL, temperature=0.1)) as remote:
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
    with contextlib.closing(Index.connect(milvus, model=MODEL)) as again:
        assert (again.dim, again.model, again.precision) == (DIM, MODEL, "fp32")
        assert len(again) == 1499
    with pytest.raises(ModelMismatchError, match=r"some \(0123.*another"):
        Index.connect(milvus, model=OTHER)
    with pytest.raises(InvalidInputError, match="no collection 'other'"):
        Index.connect(milvus, "other")


def test_milvus_is_filled_and_asked_by_a_pipeline(
    milvus: str, embeddings: Path, embedder: MultiModalEmbeddingPipeline
) -> None:
    opened = bulk.open_embeddings(embeddings)
    remote = Index.connect(milvus, "photos", dim=opened.dim, model=opened.model)
    with contextlib.closing(remote):
        add_embeddings(remote, opened)
        answer = remote.find(embedder, image=opened.paths[3], k=2)
        assert answer.hits[0].path == opened.paths[3] and answer.suggested is None
        local = index_embeddings(embeddings).find(embedder, text="笑脸", k=5).hits
        hits = remote.find(embedder, text="笑脸", k=5).hits
        assert [hit.id for hit in hits] == [hit.id for hit in local]


def test_milvus_that_does_not_answer_is_named(milvus: str) -> None:
    with pytest.raises(MilvusError, match=r"http://127\.0\.0\.1:9: ") as raised:
        Index.connect("http://127.0.0.1:9", timeout=1)
    assert isinstance(raised.value, ConnectionError)
