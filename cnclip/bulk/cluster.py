"""Bulk embedding on a Ray cluster: Ray Data reads, actors embed, this process writes the folder.

The items are cut into parts of a few batches. A task on any node reads the images of a part, an
actor embeds them, and the part returns to this process, in order. Ray repeats the parts of a node
that goes down. Items of earlier runs never leave this process.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import threading
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from .._checks import check_integer, requires_extra
from .._files import open_file
from ..archive import SUFFIX
from ..cache import cached_archive, remembered_sha256
from ..errors import CnclipError, InvalidInputError
from ..models import open_archive
from ..pipelines import MultiModalEmbeddingPipeline, pipeline
from ..pipelines.builder import MAX_THREADS
from ..pipelines.model import image_batch, max_image_batch
from ..preprocessors._prefetch import map_ahead
from ..preprocessors.multi_modal import CLIPPreprocessor
from ..sources import ImageRef, pyarrow_modules
from .embed import (
    TEXTS_PER_LIST,
    EmbedOptions,
    EmbedReport,
    embed_outcomes,
    outcomes_of,
    write_outcomes,
)
from .folder import archive_identity
from .items import OpenedSources, SourcePaths
from .outcomes import Outcome
from .store import Store, locked

logger = logging.getLogger("cnclip")

# Batches of a part: many, since the model waits for a part's first images to be decoded.
_BATCHES = 32
# Items of a part, at most: a GPU's batches are large.
_MAX_PART = 2048
# Bytes of image files that are sent with a part; the actor reads the rest.
_MAX_CONTENT = 128 << 20
_MAX_SENT = 32 << 20
_READERS_OF_A_PART = 8
_MAX_RETRIES = 20
# CPUs of an actor on nodes that have no GPUs; the model gains little from more.
_MAX_CPUS = 8


def ray_embed(
    sources: SourcePaths,
    model: str | Path,
    output: str | os.PathLike[str],
    options: EmbedOptions = EmbedOptions(),
    *,
    precision: str = "fp32",
    device: str = "gpu",
    workers: int | None = None,
    cpus_per_worker: int | None = None,
    show_progress: bool = False,
) -> EmbedReport:
    """Embed as `embed` does, on all machines of a Ray cluster.

    The cluster is the one that `ray.init` was called for, else that of `$RAY_ADDRESS`, else this
    machine. cnclip must be installed on its nodes, and the nodes must see files under the same
    paths; the model is sent to those that lack it. Only this process writes the folder, and `embed`
    can continue it. Embeddings differ by float32's rounding, as with another batch size.

    Args:
        sources: As for `embed`. They are listed here and read on the nodes.
        model: A model, as `pipeline` opens it.
        output: As for `embed`.
        options: As for `embed`.
        precision: The precision of the model, as for `pipeline`.
        device: 'gpu' for one actor per GPU, if the cluster has GPUs; 'cpu'.
        workers: The number of actors; by default as many as the cluster has resources for now.
        cpus_per_worker: CPUs of an actor, and threads that decode and, without a GPU, embed. By
            default a GPU's share of its node; without GPUs those of the smallest node, 8 at most.
        show_progress: Print progress on stderr.

    Raises:
        MissingExtraError: ray or pyarrow is not installed.
        InputTypeError, InvalidInputError: an argument cannot be used; names it.
        CnclipError, OSError: an actor could not open the model, or as for `embed`.
        ray.exceptions.RayError: the cluster failed beyond what Ray repairs, for example if actors
            died twenty times on the same images.
        KeyboardInterrupt: Ctrl-C. Embeddings that arrived in order are kept.
    """
    ray = _ray()
    pyarrow_modules()  # raises before any work
    if device not in ("gpu", "cpu"):
        raise InvalidInputError(f"expected 'gpu' or 'cpu', got {device!r}", item="device")
    if workers is not None:
        workers = check_integer(workers, "workers", maximum=MAX_THREADS)
    if cpus_per_worker is not None:
        cpus_per_worker = check_integer(cpus_per_worker, "cpus_per_worker", maximum=MAX_THREADS)
    options = options.for_folder(Path(output))
    opened = options.open(sources)
    opened.check_output(output)
    with locked(Path(output)) as folder, _connected(ray):
        actors = _actors(ray, device, workers, cpus_per_worker)
        info = open_archive(model)
        options = options.for_model(info)
        wanted = options.manifest(
            archive_identity(info), precision, opened.names, relative=opened.relative
        )
        store = Store(folder, wanted, retry=options.retry, replace_sources=options.replace)
        task = _Task(_SentModel.of(info.path, ray), precision, actors, options)
        plan = _Plan(opened, task, store.earlier.restore)
        lists = plan.embedded(ray)
        preprocessor = CLIPPreprocessor(info)
        report = write_outcomes(store, lists, plan.items, preprocessor, show_progress=show_progress)
    report.describe(opened)
    return report


class _Actors(NamedTuple):
    """The number of actors that embed, and the CPUs and GPUs of each."""

    workers: int
    cpus: int
    gpus: int


class _SentModel(NamedTuple):
    """A model that nodes may lack, now or later."""

    path: str
    sha256: str
    content: Any  # Ray's reference to the content, uint8 [n]

    @classmethod
    def of(cls, archive: Path, ray: ModuleType) -> _SentModel:
        path = os.path.abspath(archive)
        with open_file(path) as file:  # np.fromfile hides errors of the disk
            content = np.frombuffer(file.read(), np.uint8)
        return cls(path, remembered_sha256(Path(path)), ray.put(content))

    def here(self) -> Path:
        """The archive on this node: at the same path, or in the cache."""
        path = Path(self.path)
        with contextlib.suppress(OSError):
            if remembered_sha256(path) == self.sha256:
                return path

        def write(to: Path) -> None:
            _ray().get(self.content).tofile(to)

        return cached_archive(path.name.removesuffix(SUFFIX), self.sha256, write)


class _Task(NamedTuple):
    """The work of all actors."""

    model: _SentModel
    precision: str
    actors: _Actors
    options: EmbedOptions


class _Plan:
    """All items, in parts, and the numbers of the parts that have something to embed."""

    def __init__(
        self, opened: OpenedSources, task: _Task, restore: Callable[[Outcome], None]
    ) -> None:
        self._task, self._restore = task, restore
        # The parts are in memory until the run ends: about 30 bytes per item, since they are
        # packed.
        self._parts: list[bytes] = []
        self._new: list[int] = []
        self.items = 0
        options = task.options
        device = "cuda" if task.actors.gpus else "cpu"
        if options.kind == "images":
            batch = min(options.batch_size or image_batch(device), max_image_batch(device))
        else:
            batch = TEXTS_PER_LIST // 8
        part_items = min(_BATCHES, _MAX_PART // batch) * batch
        part: list[Outcome] = []
        for outcome in outcomes_of(opened.items(), restore):
            self.items += 1
            part.append(outcome)
            # Parts end where shards do.
            if len(part) == part_items or self.items % options.shard_items == 0:
                self._add(part)
                part = []
        if part:
            self._add(part)

    def _add(self, part: list[Outcome]) -> None:
        if not all(outcome.done for outcome in part):
            self._new.append(len(self._parts))
        for outcome in part:
            if outcome.done:
                outcome.release_image()
            outcome.vector = None  # that of an earlier run is restored again when it is written
        self._parts.append(_pack(part, 1))

    def embedded(self, ray: ModuleType) -> Generator[list[Outcome], None, None]:
        """The parts in order. Each outcome has its vector or error."""
        with contextlib.closing(self._results(ray)) as results:
            new = set(self._new)
            for number, packed in enumerate(self._parts):
                outcomes = next(results) if number in new else _unpack(packed)
                for outcome in outcomes:
                    if outcome.restored and outcome.error is None:
                        self._restore(outcome)
                yield outcomes

    def _results(self, ray: ModuleType) -> Generator[list[Outcome], None, None]:
        """The parts with something to embed, embedded on the cluster."""
        if not self._new:
            return
        data = self._mapped(ray, len(self._new))
        for number, batch in zip(self._new, data.iter_batches(batch_size=1), strict=True):
            if batch["part"].tolist() != [number]:
                raise RuntimeError(f"Ray Data: expected part {number}, got {batch['part']}")
            yield _unpack(batch["items"][0])

    def _mapped(self, ray: ModuleType, parts: int) -> Any:
        """A data set with a row for each of them: read and embedded when it is iterated."""
        arrow, _ = pyarrow_modules()
        tables = [
            arrow.table(
                {
                    "part": [number],
                    "items": arrow.array([self._parts[number]], arrow.large_binary()),
                }
            )
            for number in self._new
        ]
        data = ray.data.from_arrow(tables)
        data.context.execution_options.preserve_order = True
        data.context.enable_progress_bars = False
        actors = self._task.actors
        if self._task.options.kind == "images":
            # Reading mostly waits: it asks for no CPU, since the actors may have all of them.
            tasks = ray.data.TaskPoolStrategy(size=min(2 * actors.workers, parts))
            data = data.map_batches(_read, batch_size=1, num_cpus=0, compute=tasks)
        return data.map_batches(
            _Encoder,
            fn_constructor_args=(self._task,),
            batch_size=1,
            num_cpus=actors.cpus,
            num_gpus=actors.gpus,
            compute=ray.data.ActorPoolStrategy(size=min(actors.workers, parts)),
            # Nodes may go down, but an image that ends the process is not tried forever.
            max_restarts=_MAX_RETRIES,
            max_task_retries=_MAX_RETRIES,
        )


def _read(batch: dict[str, Any]) -> dict[str, Any]:
    """Read the image files of a part, in a task of Ray."""
    outcomes = _unpack(batch["items"][0])
    left = _MAX_CONTENT
    lock = threading.Lock()

    def read(outcome: Outcome) -> None:
        """Replace the reference to an image by its content."""
        nonlocal left
        item = outcome.item
        if outcome.done or item.image is None or left <= 0:
            return
        # The size of an item in an archive is that of the archive.
        if item.is_file and (item.size or 0) > _MAX_SENT:
            return
        try:
            content = item.image.read()
        except MemoryError:
            raise
        except CnclipError as error:
            outcome.fail(error)
        else:
            outcome.item = item._replace(image=ImageRef(content))
            with lock:
                left -= len(content)

    for _ in map_ahead(read, outcomes, _READERS_OF_A_PART, len(outcomes)):
        pass
    return {"part": batch["part"], "items": [_pack(outcomes)]}


class _Encoder:
    """An actor: one open model, or the error of opening it."""

    def __init__(self, task: _Task) -> None:
        self._task = task
        self._pipeline: MultiModalEmbeddingPipeline | CnclipError
        try:
            self._pipeline = pipeline(
                model=task.model.here(),
                precision=task.precision,
                device="gpu" if task.actors.gpus else "cpu",
                num_threads=task.actors.cpus,
            )
        except CnclipError as error:
            # Ray reports an actor that fails here at length, and without this error.
            self._pipeline = error

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Embed a part."""
        if isinstance(self._pipeline, CnclipError):
            return {"part": batch["part"], "items": [_pack(self._pipeline)]}
        outcomes = _unpack(batch["items"][0])
        lists = embed_outcomes(self._pipeline, outcomes, self._task.options)
        done = [outcome for some in lists for outcome in some]
        return {"part": batch["part"], "items": [_pack(done)]}


def _pack(outcomes: list[Outcome] | CnclipError, level: int = 0) -> bytes:
    return zlib.compress(pickle.dumps(outcomes, pickle.HIGHEST_PROTOCOL), level)


def _unpack(content: bytes) -> list[Outcome]:
    outcomes: list[Outcome] | CnclipError = pickle.loads(zlib.decompress(content))
    if isinstance(outcomes, CnclipError):
        raise outcomes
    return outcomes


def _actors(
    ray: ModuleType, device: str, workers: int | None, cpus_per_worker: int | None
) -> _Actors:
    """As many actors as the cluster has resources for, or as the caller asks for."""
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


@contextlib.contextmanager
def _connected(ray: ModuleType) -> Iterator[None]:
    """Connect to the cluster, and disconnect afterwards if it was not connected before."""
    connected = ray.is_initialized()
    if not connected:
        ray.init(logging_level=logging.WARNING)
    # Ray Data logs a dozen lines about its plans.
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
    # Otherwise Ray sends statistics to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with requires_extra("ray", "ray[data]"):
        import ray
        import ray.data
    module: ModuleType = ray
    return module
