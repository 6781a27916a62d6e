"""Bulk embedding on a Ray cluster: Ray Data reads, actors embed, this process writes the folder.

The items are cut into parts of a few batches. A part is read by a task on any node, embedded by an
actor, and comes back here, in order; what a node that goes down had in hand, Ray does again. Items
that are known from earlier runs never leave this process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import threading
import zlib
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np

from .. import cache
from .._text import MAX_REASON, printable
from ..archive import SUFFIX
from ..errors import CnclipError, InvalidInputError, MissingExtraError
from ..models import open_archive
from ..pipelines import MultiModalEmbeddingPipeline, pipeline
from ..pipelines.builder import MAX_THREADS
from ..pipelines.model import max_image_batch
from ..pipelines.stream import IMAGE_BATCH
from ..preprocessors._prefetch import map_ahead
from ..sources import ImageRef, pyarrow_modules
from .items import Kind, Outcome
from .manifest import Manifest, identity_of
from .output import locked
from .run import SHARD_ITEMS, Report, check_count, check_storage, open_checked, write_folder
from .sources import SourceList, Sources
from .stream import TEXTS_AT_ONCE, Take, embed_items, taken

logger = logging.getLogger("cnclip")

# Batches of a part: many, since the model waits for a part's first images to be decoded.
_BATCHES = 32
# Bytes of image files that travel with a part; the actor reads those beyond.
_MAX_CONTENT = 128 << 20
_MAX_SENT = 32 << 20
_READERS_OF_A_PART = 8
_MAX_RETRIES = 20
# CPUs of an actor on nodes that have no GPUs; the model gains little from more.
_MAX_CPUS = 8


def ray_embed(
    sources: Sources,
    model: str | Path,
    *,
    output: str | os.PathLike[str],
    kind: Kind = "images",
    dtype: Literal["float16", "float32"] = "float16",
    precision: str = "fp32",
    device: str = "gpu",
    workers: int | None = None,
    cpus_per_worker: int | None = None,
    column: str | None = None,
    id_column: str | None = None,
    batch_size: int = IMAGE_BATCH,
    shard_items: int = SHARD_ITEMS,
    retry: bool = False,
    replace: bool = False,
    show_progress: bool = False,
) -> Report:
    """Embed as `embed` does, on all machines of a Ray cluster.

    The cluster is the one that `ray.init` was called for, else that of `$RAY_ADDRESS`, else this
    machine. cnclip has to be installed on its nodes, and see files under the same paths; the model
    is sent to those that lack it. The folder is written by this process alone: it is the same as
    `embed`'s, either goes on where the other was cut off, and so does this after a node, or the
    whole cluster, went down. Embeddings differ by float32's rounding, as with another batch size.

    Args:
        sources: As of `embed`. They are listed here and read on the nodes.
        model: As `pipeline` takes it.
        output: The folder, made if need be.
        kind: "images" or "texts".
        dtype: What is stored.
        precision: As of `pipeline`.
        device: 'gpu': an actor for each GPU, if the cluster has any; 'cpu'.
        workers: Actors; by default as many as the cluster has room for now.
        cpus_per_worker: CPUs of an actor, which decodes and, without a GPU, embeds with as many
            threads; by default a GPU's share of its node, without GPUs the CPUs of the smallest
            node, 8 at most.
        column: As of `embed`.
        id_column: As of `embed`.
        batch_size: Images that go through the model together.
        shard_items: As of `embed`.
        retry: As of `embed`.
        replace: As of `embed`.
        show_progress: On stderr.

    Returns:
        What was done, as `embed` tells it.

    Raises:
        MissingExtraError: Ray is not installed.
        DatasetError, InvalidInputError, EmbeddingsError, OSError: as of `embed`.
        CnclipError: an actor could not open the model.
        ray.exceptions.RayError: the cluster failed beyond what Ray makes good, as where actors
            died twenty times over the same images.
        KeyboardInterrupt: Ctrl-C; what came back in order is kept.
    """
    ray = _ray()
    check_storage(dtype, shard_items)
    if device not in ("gpu", "cpu"):
        raise InvalidInputError(f"device: expected 'gpu' or 'cpu', got {device!r}")
    for name, count in (("workers", workers), ("cpus_per_worker", cpus_per_worker)):
        if count is not None:
            check_count(name, count, MAX_THREADS)
    opened = open_checked(sources, kind, column, id_column)
    with locked(Path(output)) as folder, _connected(ray):
        actors = _actors(
            ray, device, workers and int(workers), cpus_per_worker and int(cpus_per_worker)
        )
        check_count("batch_size", batch_size, max_image_batch("cuda" if actors.gpus else "cpu"))
        info = open_archive(model)
        wanted = Manifest(kind, identity_of(info), precision, dtype, opened.names, int(shard_items))
        path = Path(os.path.abspath(info.path))
        sent = _SentModel(str(path), cache.remembered_sha256(path), _content(ray, path))
        options = _Options(sent, kind, precision, actors, int(batch_size))

        def embedded(take: Take) -> tuple[int, Generator[list[Outcome], None, None]]:
            plan = _Plan(opened, options, int(shard_items), take)
            return plan.items, plan.embedded(ray)

        report = write_folder(
            folder, wanted, embedded, retry=retry, replace=replace, show_progress=show_progress
        )
    report.left_out = dict(opened.left_out)
    return report


class _Actors(NamedTuple):
    """What embeds.

    Attributes:
        workers: How many.
        cpus: Of each.
        gpus: Of each, 0 or 1.
    """

    workers: int
    cpus: int
    gpus: int


class _SentModel(NamedTuple):
    """A model that nodes may lack.

    Attributes:
        path: The archive, where it lies on this machine.
        sha256: Of its content.
        content: Ray's reference to that, uint8 [n].
    """

    path: str
    sha256: str
    content: Any

    def here(self) -> Path:
        """The archive on this node: that of the same path, or one in the cache."""
        path = Path(self.path)
        with contextlib.suppress(OSError):
            if cache.remembered_sha256(path) == self.sha256:
                return path

        def write(to: Path) -> None:
            _ray().get(self.content).tofile(to)

        return cache.cached_archive(path.name.removesuffix(SUFFIX), self.sha256, write)


class _Options(NamedTuple):
    """What an actor is told."""

    model: _SentModel
    kind: Kind
    precision: str
    actors: _Actors
    batch_size: int


class _Plan:
    """All items, in parts: those that are to be embedded, and those that are known.

    Attributes:
        items: How many there are.
    """

    def __init__(self, opened: SourceList, options: _Options, shard_items: int, take: Take) -> None:
        """Go through the sources once.

        Args:
            opened: The sources.
            options: For the actors.
            shard_items: Parts end where shards do.
            take: Knows items of earlier runs.
        """
        self._options, self._take = options, take
        # The lists are in memory until the run ends: about 30 bytes an item, since they are packed.
        self._parts: list[bytes] = []
        self._new: list[int] = []
        self.items = 0
        batch = options.batch_size if options.kind == "images" else TEXTS_AT_ONCE // 8
        part: list[Outcome] = []
        for item in taken(opened.items(), take):
            self.items += 1
            part.append(item)
            if len(part) == _BATCHES * batch or self.items % shard_items == 0:
                self._add(part)
                part = []
        if part:
            self._add(part)

    def _add(self, part: list[Outcome]) -> None:
        if not all(item.done for item in part):
            self._new.append(len(self._parts))
        for item in part:
            if item.done:
                item.release_image()
            if item.vector is not None:
                item.vector = _KNOWN  # looked up again when it is written
        self._parts.append(_pack(part, 1))

    def embedded(self, ray: ModuleType) -> Generator[list[Outcome], None, None]:
        """The parts, each item with its vector or error, in order."""
        with contextlib.closing(self._results(ray)) as results:
            new = set(self._new)
            for number, packed in enumerate(self._parts):
                items = next(results) if number in new else _unpack(packed)
                for item in items:
                    if item.vector is not None and not len(item.vector):
                        item.vector = None
                        self._take(item)
                yield items

    def _results(self, ray: ModuleType) -> Generator[list[Outcome], None, None]:
        """The new parts, embedded on the cluster."""
        if not self._new:
            return
        arrow, _ = pyarrow_modules()
        binary = arrow.large_binary()
        tables = [
            arrow.table({"part": [number], "items": arrow.array([self._parts[number]], binary)})
            for number in self._new
        ]
        data = ray.data.from_arrow(tables)
        parts = len(tables)
        del tables
        data.context.execution_options.preserve_order = True
        data.context.enable_progress_bars = False
        actors, kind = self._options.actors, self._options.kind
        if kind == "images":
            # Reading is waiting: it asks for no CPU, all of which the actors may have.
            tasks = ray.data.TaskPoolStrategy(size=min(2 * actors.workers, parts))
            data = data.map_batches(_read, batch_size=1, num_cpus=0, compute=tasks)
        data = data.map_batches(
            _Encoder,
            fn_constructor_args=(self._options,),
            batch_size=1,
            num_cpus=actors.cpus,
            num_gpus=actors.gpus,
            compute=ray.data.ActorPoolStrategy(size=min(actors.workers, parts)),
            # Nodes may go down, but an image that ends the process is not tried for ever.
            max_restarts=_MAX_RETRIES,
            max_task_retries=_MAX_RETRIES,
        )
        for number, batch in zip(self._new, data.iter_batches(batch_size=1), strict=True):
            if batch["part"].tolist() != [number]:
                raise RuntimeError(f"Ray Data: expected part {number}, got {batch['part']}")
            yield _unpack(batch["items"][0])


# Stands for a vector that this process has; vectors of the others are not empty.
_KNOWN = np.empty(0, np.float32)


def _read(batch: dict[str, Any]) -> dict[str, Any]:
    """A part with its images' files, in a task of Ray's."""
    items = _unpack(batch["items"][0])
    room = _MAX_CONTENT
    lock = threading.Lock()

    def read(outcome: Outcome) -> None:
        """Replace the reference by one to the content."""
        nonlocal room
        item = outcome.item
        if outcome.done or item.image is None or room <= 0:
            return
        # Of what lies in an archive, that is the archive's.
        if item.id == item.path and (item.size or 0) > _MAX_SENT:
            return
        try:
            content = item.image.read()
        except CnclipError as error:
            outcome.error = printable(error.reason)[:MAX_REASON]
            outcome.release_image()
        else:
            outcome.item = replace(item, image=ImageRef(content))
            with lock:
                room -= len(content)

    for _ in map_ahead(read, items, _READERS_OF_A_PART, len(items)):
        pass
    return {"part": batch["part"], "items": [_pack(items)]}


class _Encoder:
    """An actor: one open model, or the reason why there is none."""

    def __init__(self, options: _Options) -> None:
        self._options = options
        self._pipeline: MultiModalEmbeddingPipeline | CnclipError
        try:
            self._pipeline = pipeline(
                model=options.model.here(),
                precision=options.precision,
                device="gpu" if options.actors.gpus else "cpu",
                num_threads=options.actors.cpus,
            )
        except CnclipError as error:
            # Of an actor that fails here, Ray tells in pages, and not which error it was.
            self._pipeline = error

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Embed a part."""
        if isinstance(self._pipeline, CnclipError):
            return {"part": batch["part"], "items": [_pack(self._pipeline)]}
        items = _unpack(batch["items"][0])
        done = embed_items(
            self._pipeline,
            items,
            self._options.kind,
            batch_size=self._options.batch_size,
            cut_every=len(items),
        )
        return {"part": batch["part"], "items": [_pack([item for some in done for item in some])]}


def _pack(items: list[Outcome] | CnclipError, level: int = 0) -> bytes:
    return zlib.compress(pickle.dumps(items, pickle.HIGHEST_PROTOCOL), level)


def _unpack(content: bytes) -> list[Outcome]:
    items: list[Outcome] | CnclipError = pickle.loads(zlib.decompress(content))
    if isinstance(items, CnclipError):
        raise items
    return items


def _actors(
    ray: ModuleType, device: str, workers: int | None, cpus_per_worker: int | None
) -> _Actors:
    """As many as there is room for, unless told otherwise."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    with_gpus = [node for node in nodes if node.get("GPU", 0) >= 1]
    if device == "gpu" and with_gpus:
        shares = [int(node.get("CPU", 1) // node["GPU"]) for node in with_gpus]
        gpus = sum(int(node["GPU"]) for node in with_gpus)
        return _Actors(workers or gpus, cpus_per_worker or max(1, min(shares)), 1)
    found = [int(node.get("CPU", 0)) for node in nodes]
    cpus = cpus_per_worker or min(_MAX_CPUS, min((count for count in found if count), default=1))
    if cpus > max(found, default=0):
        logger.warning("no node of the cluster has %d CPUs now: Ray waits for one", cpus)
    return _Actors(workers or max(1, sum(count // cpus for count in found)), cpus, 0)


def _content(ray: ModuleType, archive: Path) -> Any:
    """A model's content in Ray's memory, for nodes that lack it, now or later."""
    return ray.put(np.fromfile(archive, np.uint8))


@contextlib.contextmanager
def _connected(ray: ModuleType) -> Iterator[None]:
    """Connected to the cluster; what was not connected before is not afterwards."""
    connected = ray.is_initialized()
    if not connected:
        ray.init(logging_level=logging.WARNING)
    # Ray Data tells of its plans there, in a dozen lines.
    its_logger = logging.getLogger("ray.data")
    level = its_logger.level
    its_logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        its_logger.setLevel(level)
        if not connected:
            ray.shutdown()


def _ray() -> ModuleType:
    """Ray, with its part for data.

    Raises:
        MissingExtraError: it is not installed.
    """
    # It would tell its makers how it is used.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("ray", "ray[data]") from error
    module: ModuleType = ray
    return module
