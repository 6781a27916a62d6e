"""`cnclip.bulk.ray_embed` on a cluster of a head and two nodes, whose actors and nodes die."""

from __future__ import annotations

import base64
import hashlib
import pickle
import shutil
import signal
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow
import pyarrow.parquet
import pytest

from cnclip import bulk, cache, pipeline
from cnclip.assets import asset_path
from cnclip.bulk import cluster as under_test
from cnclip.bulk.items import open_sources
from cnclip.bulk.outcomes import Outcome
from cnclip.datasets import write_split
from cnclip.errors import DatasetError, DeviceError, EmbeddingsError, InvalidInputError
from cnclip.pipelines import MultiModalEmbeddingPipeline

ray = pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = [
    # Ray leaves files and sockets to the garbage collector, and warns of future changes.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

GALLERY = asset_path("gallery")
IMAGES = sorted(GALLERY.glob("*.png"))[:160]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster: a head that computes nothing, and two nodes of one CPU each."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_worker_niceness", "0")  # 15 by default: starved by other tests
        # A node that says nothing for some seconds is dead; by default it takes half a minute.
        patch.setenv("RAY_health_check_period_ms", "500")
        patch.setenv("RAY_health_check_failure_threshold", "3")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        cluster.worker_list = [cluster.add_node(num_cpus=1) for _ in range(2)]
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def some() -> list[Path]:
    """A few images."""
    return IMAGES[:20]


def shipped() -> MultiModalEmbeddingPipeline:
    return pipeline(model="emoji-cn", device="cpu")


def vectors_of(folder: Path) -> dict[str, np.ndarray]:
    """The embeddings by their ids, each there once."""
    opened = bulk.open_embeddings(folder, check=True)
    found = {}
    for _, vectors, lines in opened.blocks():
        found |= zip(lines["id"].to_pylist(), np.array(vectors, np.float32), strict=True)
    assert list(found) == opened.ids
    assert len(found) == opened.rows
    return found


def assert_same(folder: Path, other: Path) -> None:
    """Both hold the same items in the same order, with the same embeddings but for rounding."""
    mine, others = vectors_of(folder), vectors_of(other)
    assert list(mine) == list(others)
    np.testing.assert_allclose(list(mine.values()), list(others.values()), atol=2e-6, rtol=0)
    first, second = bulk.open_embeddings(folder), bulk.open_embeddings(other)
    assert list(first.failed()) == list(second.failed())
    for a, b in zip(first.blocks(), second.blocks(), strict=True):
        assert a.lines.equals(b.lines)
    assert first.manifest.sources == second.manifest.sources
    assert first.model == second.model


def actors() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if "MapWorker(MapBatches(_Encoder))" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def after_shards(folder: Path, count: int, do: Callable[[], None]) -> threading.Thread:
    """Do something once so many shards are there."""

    def wait() -> None:
        while len(list(folder.glob("*.npy"))) < count:
            time.sleep(0.01)
        do()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


# Without a cluster


def test_wrong_arguments(tmp_path: Path) -> None:
    for options, what in (
        ({"device": "cuda:0"}, "device"),
        ({"workers": 0}, "workers"),
        ({"cpus_per_worker": 10**6}, "cpus_per_worker"),
    ):
        with pytest.raises(InvalidInputError, match=what):
            bulk.ray_embed(GALLERY, "emoji-cn", tmp_path / "out", **options)  # type: ignore[arg-type]
    for wrong, what in (({"dtype": "int8"}, "dtype"), ({"kind": "songs"}, "kind")):
        with pytest.raises(InvalidInputError, match=what):
            bulk.EmbedOptions(**wrong)  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match="no such"):
        bulk.ray_embed(tmp_path / "none", "emoji-cn", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_actors() -> None:
    class FakeRay:
        def __init__(self, *nodes: dict[str, float]) -> None:
            self._nodes = nodes

        def nodes(self) -> list[dict[str, Any]]:
            return [{"Alive": True, "Resources": node} for node in self._nodes]

    def chosen(
        *nodes: dict[str, float], device: str = "gpu", **options: int | None
    ) -> tuple[int, ...]:
        wanted = {"workers": None, "cpus_per_worker": None, **options}
        return tuple(under_test._actors(FakeRay(*nodes), device, **wanted))  # type: ignore[arg-type]

    assert chosen({}, {"CPU": 1}, {"CPU": 1}) == (2, 1, 0)
    assert chosen({"CPU": 16}, {"CPU": 32}) == (6, 8, 0)
    assert chosen({"CPU": 16}, {"CPU": 32}, cpus_per_worker=4, workers=3) == (3, 4, 0)
    assert chosen({"CPU": 4}, {"CPU": 32, "GPU": 4}, {"CPU": 12, "GPU": 2}) == (6, 6, 1)
    assert chosen({"CPU": 4}, {"CPU": 32, "GPU": 4}, device="cpu") == (9, 4, 0)
    assert chosen({}) == (1, 1, 0)


def test_items_of_every_source_can_be_sent(tmp_path: Path, some: list[Path]) -> None:
    with tarfile.open(tmp_path / "some.tar", "w") as tar:
        for path in some:
            tar.add(path, path.name)
    for compression, name in ((zipfile.ZIP_STORED, "stored"), (zipfile.ZIP_DEFLATED, "deflated")):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w", compression) as archive:
            for path in some:
                archive.write(path, path.name)
    images = [(number, path.read_bytes()) for number, path in enumerate(some)]
    write_split(tmp_path, "test", images, [(0, "猫", [0])])
    with zipfile.ZipFile(tmp_path / "tsv.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "test_imgs.tsv", "test_imgs.tsv")
        archive.write(tmp_path / "test_texts.jsonl", "test_texts.jsonl")
    table = pyarrow.table({"image": [content for _, content in images]})
    pyarrow.parquet.write_table(table, tmp_path / "some.parquet", row_group_size=7)
    urls = [f"data:image/png;base64,{base64.b64encode(c).decode()}" for _, c in images]
    (tmp_path / "list.txt").write_text("\n".join(urls))
    (tmp_path / "folder").mkdir()
    for path in some:
        shutil.copy(path, tmp_path / "folder" / path.name)
    names = ("some.tar", "stored.zip", "deflated.zip", "test_imgs.tsv", "tsv.zip", "some.parquet")
    for name in (*names, "list.txt", "folder"):
        items = list(open_sources(tmp_path / name).items())
        sent = [pickle.dumps(item) for item in items]
        received = pickle.loads(pickle.dumps(items))
        del items
        contents = [content for _, content in images]
        assert [item.image.read() for item in received] == contents, name
        assert [pickle.loads(one).image.read() for one in sent] == contents, name
        if name in ("some.tar", "test_imgs.tsv"):
            # An image is sent without the index of the whole file.
            assert max(map(len, sent)) < 2000, name


def test_a_zip_that_is_written_anew(tmp_path: Path, some: list[Path]) -> None:
    for path in some[:2]:
        with zipfile.ZipFile(tmp_path / "new.zip", "w") as archive:
            archive.write(path, path.name)
        (tmp_path / "new.zip").replace(tmp_path / "a.zip")
        sent = pickle.loads(pickle.dumps(list(open_sources(tmp_path / "a.zip").items())))
        assert [item.image.read() for item in sent] == [path.read_bytes()]


def test_the_plan_keeps_no_images(tmp_path: Path, some: list[Path]) -> None:
    images = [(number, path.read_bytes()) for number, path in enumerate(some)]
    write_split(tmp_path, "test", images, [(0, "猫", [0])])
    with zipfile.ZipFile(tmp_path / "tsv.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "test_imgs.tsv", "test_imgs.tsv")
        archive.write(tmp_path / "test_texts.jsonl", "test_texts.jsonl")

    def know(outcome: Outcome) -> None:
        outcome.vector, outcome.restored = np.zeros(8, np.float16), True

    options = bulk.EmbedOptions(shard_items=100)
    task = under_test._Task(None, "fp32", under_test._Actors(1, 1, 0), options)  # type: ignore[arg-type]
    plan = under_test._Plan(open_sources(tmp_path / "tsv.zip"), task, know)
    assert plan.items == len(some)
    assert sum(map(len, plan._parts)) < 200 * len(some)


def test_large_files_do_not_travel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, some: list[Path]
) -> None:
    limit = sorted(path.stat().st_size for path in some)[10]
    monkeypatch.setattr(under_test, "_MAX_SENT", limit)
    outcomes = [Outcome.of(item) for item in open_sources(some).items()]
    read = under_test._read({"part": np.array([0]), "items": [under_test._pack(outcomes)]})
    found = [outcome.item.image for outcome in under_test._unpack(read["items"][0])]
    travel = [image is not None and isinstance(image.origin, bytes) for image in found]
    assert travel == [path.stat().st_size <= limit for path in some]
    assert any(travel) and not all(travel)
    contents = [image and image.read() for image in found]
    assert contents == [path.read_bytes() for path in some]


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux's /proc")
def test_a_model_that_cannot_be_read_is_not_sent() -> None:
    with pytest.raises(OSError, match="Input/output error: '/proc/self/mem'"):
        under_test._SentModel.of(Path("/proc/self/mem"), ray)


def test_an_actor_embeds_a_part(tmp_path: Path, some: list[Path]) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")

    class Shipped:
        def here(self) -> Path:
            return shipped().model.info.path

    def sent(precision: str) -> list[Outcome]:
        options = bulk.EmbedOptions(batch_size=4)
        task = under_test._Task(Shipped(), precision, under_test._Actors(1, 1, 0), options)  # type: ignore[arg-type]
        outcomes = [
            Outcome.of(item) for item in open_sources([*some, tmp_path / "bad.png"]).items()
        ]
        batch = under_test._read({"part": np.array([3]), "items": [under_test._pack(outcomes)]})
        answer = under_test._Encoder(task)(batch)
        assert answer["part"].tolist() == [3]
        return under_test._unpack(answer["items"][0])

    *good, bad = sent("fp32")
    rows = np.array([outcome.vector for outcome in good], np.float32)
    wanted = shipped().forward({"img": some})["img_embedding"]
    np.testing.assert_allclose(rows, wanted, atol=1e-3)
    assert bad.vector is None and bad.error is not None and bad.item.path.endswith("bad.png")
    # The error of opening the model is raised where the parts arrive.
    with pytest.raises(DeviceError, match="fp16"):
        sent("fp16")


# On the cluster


@pytest.mark.slow
def test_a_folder_is_that_of_embed(nodes: Any, tmp_path: Path, some: list[Path]) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in some:
        shutil.copy2(path, photos)
    (photos / "broken.png").write_bytes(b"no image")
    (photos / "empty.png").write_bytes(b"")
    (photos / "notes.txt").write_text("no image")
    with tarfile.open(tmp_path / "some.tar", "w") as tar:
        for path in some[:5]:
            tar.add(path, path.name)
    sources = [photos, tmp_path / "some.tar"]
    options = bulk.EmbedOptions(shard_items=8, batch_size=4, dtype="float32")
    bulk.embed(sources, shipped(), tmp_path / "one", options)
    report = bulk.ray_embed(sources, "emoji-cn", tmp_path / "many", options)
    assert (report.rows, report.embedded, report.kept, report.failed) == (25, 25, 0, 2)
    assert report.left_out == {".txt": 1}
    assert_same(tmp_path / "many", tmp_path / "one")
    # Either goes on with the other's folder; only what is new is embedded.
    shutil.copy2(IMAGES[30], photos)
    report = bulk.ray_embed(sources, "emoji-cn", tmp_path / "one", options)
    assert (report.rows, report.embedded, report.kept, report.failed) == (26, 1, 25, 2)
    bulk.embed(sources, shipped(), tmp_path / "many", options)
    assert_same(tmp_path / "many", tmp_path / "one")
    report = bulk.ray_embed(sources, "emoji-cn", tmp_path / "one", options)
    assert (report.embedded, report.kept) == (0, 26)


@pytest.mark.slow
def test_texts(nodes: Any, tmp_path: Path) -> None:
    (tmp_path / "titles.txt").write_text("".join(f"第{n}只猫\n" for n in range(3000)))
    options = bulk.EmbedOptions(kind="texts", dtype="float32")
    source = tmp_path / "titles.txt"
    bulk.embed(source, shipped(), tmp_path / "one", options)
    report = bulk.ray_embed(source, "emoji-cn", tmp_path / "many", options)
    assert (report.rows, report.failed) == (3000, 0)
    assert_same(tmp_path / "many", tmp_path / "one")


@pytest.mark.slow
def test_an_actor_is_killed(nodes: Any, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill() -> None:
        victim = actors()[0]
        victim.send_signal(signal.SIGKILL)
        killed.append(victim.pid)

    options = bulk.EmbedOptions(shard_items=8, batch_size=1, dtype="float32")
    thread = after_shards(tmp_path / "many", 2, kill)
    report = bulk.ray_embed(IMAGES, "emoji-cn", tmp_path / "many", options)
    thread.join(10)
    assert killed
    bulk.embed(IMAGES, shipped(), tmp_path / "one", options)
    assert report.rows == report.embedded == bulk.open_embeddings(tmp_path / "one").rows
    assert_same(tmp_path / "many", tmp_path / "one")


@pytest.mark.slow
def test_a_run_that_is_cut_off_goes_on(
    nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnclip.bulk.store.SECONDS_BETWEEN_COMMITS", 0)
    options = bulk.EmbedOptions(shard_items=32, batch_size=1, dtype="float32")
    lists = 0
    unpack = under_test._unpack

    def interrupted(content: bytes) -> list[Any]:
        nonlocal lists
        lists += 1
        if lists == 4:
            raise KeyboardInterrupt
        return unpack(content)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(under_test, "_unpack", interrupted)
        bulk.ray_embed(IMAGES, "emoji-cn", tmp_path / "many", options)
    with pytest.raises(EmbeddingsError, match="not finished"):
        bulk.open_embeddings(tmp_path / "many")
    deadline = time.monotonic() + 30
    while actors() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not actors()
    report = bulk.ray_embed(IMAGES, "emoji-cn", tmp_path / "many", options)
    assert report.kept == 3 * 32
    bulk.embed(IMAGES, shipped(), tmp_path / "one", options)
    assert_same(tmp_path / "many", tmp_path / "one")


@pytest.mark.slow
def test_a_model_that_a_node_lacks(
    nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"an archive"
    lost = tmp_path / "model.cnclip.pt"
    monkeypatch.setenv("CNCLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_is_intact", Path.is_file)
    digest = hashlib.sha256(content).hexdigest()
    reference = ray.put(np.frombuffer(content, np.uint8))
    here = under_test._SentModel(str(lost), digest, reference).here()
    assert here.is_relative_to(tmp_path / "cache")
    assert here.read_bytes() == content
    lost.write_bytes(b"another")
    assert under_test._SentModel(str(lost), digest, reference).here() == here
    lost.write_bytes(content)
    assert under_test._SentModel(str(lost), digest, reference).here() == lost


@pytest.mark.slow
def test_a_model_that_actors_cannot_open(nodes: Any, tmp_path: Path, some: list[Path]) -> None:
    with pytest.raises(DeviceError, match="fp16"):
        bulk.ray_embed(some, "emoji-cn", tmp_path / "out", precision="fp16")


@pytest.mark.slow
def test_a_node_goes_down(nodes: Any, tmp_path: Path) -> None:
    gone: list[Any] = []

    def remove() -> None:
        nodes.remove_node(nodes.worker_list[1], allow_graceful=False)
        gone.append(nodes.worker_list[1])

    options = bulk.EmbedOptions(shard_items=8, batch_size=1, dtype="float32")
    thread = after_shards(tmp_path / "many", 2, remove)
    report = bulk.ray_embed(IMAGES, "emoji-cn", tmp_path / "many", options)
    thread.join(10)
    assert gone
    bulk.embed(IMAGES, shipped(), tmp_path / "one", options)
    assert report.rows == report.embedded == bulk.open_embeddings(tmp_path / "one").rows
    assert_same(tmp_path / "many", tmp_path / "one")
