"""The commands whose files are tested: what they read and write, and what their users find.

Each writes to a folder, the only one in which operations are recorded, or fail. What it reads is
elsewhere.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet  # noqa: F401
import torch

# Also what commands import late: a forked process has it then.
from cnclip import bulk, cache, cli
from cnclip.archive import check_archive
from cnclip.assets import asset_path
from cnclip.bulk import store
from cnclip.datasets import write_split
from cnclip.errors import EmbeddingsError
from cnclip.models import read_checkpoint
from cnclip.search import Index
from cnclip.train import loop
from tests.reliability.disk import State
from tests.reliability.operations import Fault
from tests.support.small_vit import write_directory
from tests.support.training import WORDS, png

GALLERY = sorted(asset_path("gallery").glob("*.png"))
ON_ONE_THREAD = ("--device", "cpu", "--threads", "1")


class Scenario:
    """A command that writes to a folder.

    Attributes:
        name: A name for people.
        folder: The folder, without symbolic links.
        inputs: Another one, with what the command reads.
        command: The arguments of `cnclip`.
        next_command: Those of a run that follows an interrupted one.
        status: The exit status of an unbroken run.
        needs_folder: The run fails if it cannot write to the folder.
        writes_archive: libtorch writes a file, which ends the process when a write fails.
    """

    name = ""
    status = 0
    needs_folder = True
    writes_archive = False

    def __init__(self, work: Path) -> None:
        self.folder, self.inputs = work / self.name / "folder", work / self.name / "inputs"
        self.environment = {
            "CNCLIP_CACHE": str(work / "cache"),
            "CNCLIP_PREPARED": "never",
        }
        self.command: list[str] = []
        self.next_command: list[str] = []

    def prepare(self) -> None:
        """Write the inputs, and what is in the folder before the run. Once, in any process."""

    def run(self, command: list[str] | None = None) -> int:
        """Run the command in this process; returns its exit status."""
        os.environ.update(self.environment)
        store.SECONDS_BETWEEN_COMMITS = 0  # after each batch
        return cli.main(self.command if command is None else command)

    def run_next(self) -> int:
        """Run the command that follows an interrupted one."""
        return self.run(self.next_command or self.command)

    def may_end_by(self, number: int, fault: Fault) -> bool:
        """Whether a failure may end the process by the signal of a number."""
        return self.writes_archive and fault.kind == "write" and number == signal.SIGABRT

    def results(self) -> State:
        """The files that must be equal when the last of some runs was complete."""
        return read_tree(self.folder)

    def found(self) -> Any:
        """What a reader of the folder finds, if that is always of one complete run.

        Raises:
            CnclipError, OSError: the files cannot be read: they are damaged.
        """
        return None


def read_tree(folder: Path) -> dict[str, bytes | None]:
    """The files in a folder, by their relative paths; None for a directory."""
    found: dict[str, bytes | None] = {}
    for parent, directories, names in os.walk(folder):
        relative = os.path.relpath(parent, folder)
        prefix = "" if relative == "." else f"{relative}/"
        found |= {prefix + name: None for name in directories}
        found |= {prefix + name: Path(parent, name).read_bytes() for name in names}
    return found


def write_tree(folder: Path, state: State) -> None:
    """Let a folder hold these files and no others."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path, content in sorted(state.items()):
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)


def _copy_images(images: list[Path], folder: Path) -> None:
    """Let a folder hold these images and no others."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for image in images:
        shutil.copy2(image, folder)


class Embed(Scenario):
    """Images into a new folder, in three shards."""

    name = "embed"
    options: tuple[str, ...] = ()

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        self.images, self.out = self.inputs / "images", self.folder / "out"
        self.command = ["embed", str(self.images), "-o", str(self.out), *ON_ONE_THREAD]
        self.command += ["--shard-items", "3", "--batch-size", "2", *self.options]

    def prepare(self) -> None:
        _copy_images(GALLERY[:7], self.images)

    def found(self) -> Any:
        """A digest of the embeddings; None before a run has ended."""
        try:
            opened = bulk.open_embeddings(self.out, check=True)
        except EmbeddingsError as error:
            if "not finished" in error.reason or "not a folder of embeddings" in error.reason:
                return None
            raise
        digest = hashlib.sha256()
        for _, vectors, lines in opened.blocks():
            digest.update(vectors.tobytes() + repr(lines.column("id").to_pylist()).encode())
        return digest.hexdigest()


class Update(Embed):
    """A folder of embeddings is brought up to date: images were added and removed."""

    name = "embed-update"

    def prepare(self) -> None:
        super().prepare()
        assert self.run() == 0
        _copy_images(GALLERY[2:9], self.images)


class ClipRetrieval(Update):
    """The same, for a folder that has clip-retrieval's files as well."""

    name = "embed-clip-retrieval"
    options = ("--to", "clip-retrieval")


class BuildIndex(Scenario):
    """An index is replaced by that of other embeddings."""

    name = "index"

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        # At most ten, so that nothing is measured: times would differ.
        self.images, self.embeddings = self.inputs / "images", self.inputs / "embeddings"
        self.path = self.folder / "images.index"
        self.command = ["index", str(self.embeddings), "-o", str(self.path), *ON_ONE_THREAD]

    def prepare(self) -> None:
        for images in (GALLERY[:6], GALLERY[2:10]):
            _copy_images(images, self.images)
            embed = ["embed", str(self.images), "-o", str(self.embeddings), *ON_ONE_THREAD]
            assert self.run(embed) == 0
            if images[0] == GALLERY[0]:
                assert self.run() == 0

    def found(self) -> Any:
        """The vectors and the paths of the items."""
        index = Index.load(self.path)
        hits = index.search(np.eye(3, index.dim, dtype=np.float32), 10)
        return [[(hit.id, hit.path, hit.score) for hit in some] for some in hits]


class Convert(Scenario):
    """A checkpoint into an archive, which replaces another one."""

    name = "convert"
    writes_archive = True
    target, to = "model.cnclip.pt", "archive"

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        self.output = self.folder / self.target
        self.models = [self.inputs / f"model-{number}" for number in range(2)]
        self.command = ["convert", str(self.models[1]), "-o", str(self.output), "--to", self.to]

    def prepare(self) -> None:
        for seed in range(2):
            write_directory(self.inputs, seed=seed)
        earlier = ["convert", str(self.models[0]), *self.command[2:]]
        assert self.run(earlier) == 0

    def found(self) -> Any:
        """The file, which is the former one or the new one."""
        return hashlib.sha256(self.output.read_bytes()).hexdigest()


class ConvertToPt(Convert):
    """A checkpoint into cn_clip's format."""

    name = "convert-cn-clip"
    writes_archive = False
    target, to = "model.pt", "cn_clip"


class ConvertToDirectory(Convert):
    """A checkpoint into a new directory."""

    name = "convert-modelscope"
    writes_archive = False
    target, to = "model", "modelscope"

    def prepare(self) -> None:
        for seed in range(2):
            write_directory(self.inputs, seed=seed)

    def run_next(self) -> int:
        """A directory that is there is refused, and must be complete."""
        is_there = self.output.exists() and any(self.output.iterdir())
        status = super().run_next()
        return 0 if is_there and status == 2 else status

    def found(self) -> Any:
        """All files, or none."""
        return sorted(read_tree(self.output).items()) if self.output.exists() else None


class ConvertToHuggingFace(ConvertToDirectory):
    """A checkpoint into Hugging Face's format."""

    name = "convert-huggingface"
    to = "huggingface"


class Cache(Scenario):
    """A checkpoint is opened, and its archive and the records of digests are kept."""

    name = "cache"
    needs_folder = False
    writes_archive = True

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        self.model = self.inputs / "model-0"
        self.environment["CNCLIP_CACHE"] = str(self.folder / "cache")
        self.command = ["info", str(self.model)]

    def prepare(self) -> None:
        write_directory(self.inputs)

    def run(self, command: list[str] | None = None) -> int:
        # By content: the times of replayed files differ. Nothing waits for the clock's next tick.
        cache.identity_of = _identity_by_content  # type: ignore[attr-defined]
        cache._CLOCK_TICK_SECONDS = -1.0  # type: ignore[misc]
        return super().run(command)

    def results(self) -> State:
        """All files but the records that others were checked, which a later run adds."""
        found = read_tree(self.folder)
        records = ("checked-", "prepared-")
        return {path: found[path] for path in found if not Path(path).name.startswith(records)}


def _identity_by_content(file: Path) -> str:
    return hashlib.sha256(f"{file}\0".encode() + file.read_bytes()).hexdigest()


class Prepared(Cache):
    """A model is used, and its prepared weights are kept as well."""

    name = "cache-prepared"

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        self.environment["CNCLIP_PREPARED"] = "always"
        self.out = self.inputs / "out"
        self.command = ["embed", str(self.inputs / "images"), "-o", str(self.out)]
        self.command += ["--model", str(self.model), *ON_ONE_THREAD]

    def prepare(self) -> None:
        super().prepare()
        _copy_images(GALLERY[:2], self.inputs / "images")

    def run(self, command: list[str] | None = None) -> int:
        shutil.rmtree(self.out, ignore_errors=True)
        return super().run(command)

    def results(self) -> State:
        return {**super().results(), **read_tree(self.out)}


class Train(Scenario):
    """A run of three steps, with a state, a validation and the best weights after each."""

    name = "train"
    status = 1  # an image cannot be read
    writes_archive = True

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        self.data, self.out = self.inputs / "data", self.folder / "run"
        self.command = ["train", "--model", str(self.inputs / "model-0"), "-o", str(self.out)]
        self.command += ["--train", str(self.data), "--val", str(self.data), "--device", "cpu"]
        for option, value in (
            ("batch-size", 4),
            ("max-steps", 3),
            ("valid-step-interval", 1),
            ("save-step-frequency", 1),
            ("log-interval", 1),
            ("num-workers", 0),
            ("warmup", 1),
            ("lr", 1e-3),
        ):
            self.command += [f"--{option}", str(value)]
        self.next_command = [*self.command, "--resume"]

    def prepare(self) -> None:
        write_directory(self.inputs)
        images = [(number, png(number)) for number in range(8)]
        pairs = [(number, WORDS[number], [number]) for number in range(9)]
        write_split(self.data, "train", [*images[:4], (8, b"broken"), *images[4:]], pairs)
        write_split(self.data, "valid", images[:4], pairs[:4])

    def run(self, command: list[str] | None = None) -> int:
        # Its files are named after the time and the process, and are appended to.
        sys.modules["torch.utils.tensorboard"] = None  # type: ignore[assignment]
        # By this clock all runs have the same speed, so that more of them start from known states.
        loop.time = SimpleNamespace(monotonic=count().__next__)  # type: ignore[attr-defined]
        return super().run(command)

    def results(self) -> State:
        """All files, without the speed, and the state by its values.

        Its bytes also depend on which equal strings are one object.
        """
        found = read_tree(self.folder)
        metrics = found.get("run/metrics.jsonl")
        if metrics is not None:
            lines = [json.loads(line) for line in metrics.splitlines()]
            kept = [{k: v for k, v in one.items() if k != "pairs_per_second"} for one in lines]
            found["run/metrics.jsonl"] = json.dumps(kept).encode()
        if (state := found.get("run/last.pt")) is not None:
            values = torch.load(io.BytesIO(state), weights_only=True)
            found["run/last.pt"] = repr(_plain(values)).encode()
        return found

    def found(self) -> Any:
        """Nothing: but what is there must be whole."""
        if (self.out / "best").exists():
            read_checkpoint(self.out / "best")
        if (self.out / "best.cnclip.pt").exists():
            check_archive(self.out / "best.cnclip.pt")
        if (self.out / "last.pt").exists():
            torch.load(self.out / "last.pt", weights_only=True)


def _plain(value: Any) -> Any:
    """A value whose `repr` has all bits of the tensors in it."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


ALL: tuple[type[Scenario], ...] = (
    *(Embed, Update, ClipRetrieval, BuildIndex),
    *(Convert, ConvertToPt, ConvertToDirectory, ConvertToHuggingFace),
    *(Cache, Prepared, Train),
)
