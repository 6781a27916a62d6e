"""Start or resume a training run: `finetune`."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from ..checkpoints.scratch import sizes_of
from ..datasets import Problems
from ..datasets.pairs import PairData, open_pairs
from ..errors import InputTypeError, InvalidInputError
from ..models import read_checkpoint
from .journal import Journal
from .loop import TrainingLoop, TrainReport
from .options import TrainOptions
from .process import catch_signals, join_world
from .run_folder import RunFolder


def finetune(
    model: str | Path,
    train: str | Path,
    output: str | Path,
    *,
    val: str | Path | None = None,
    train_split: str | None = None,
    val_split: str | None = None,
    from_scratch: bool = False,
    resume: bool = False,
    revision: str | None = None,
    show_progress: bool = True,
    **options: Any,
) -> TrainReport:
    """Train a Chinese-CLIP on pairs of images and texts.

    Under torchrun, all its processes train together: over nccl on GPUs, else over gloo.

    Args:
        model: A name, path or hub id, as for `pipeline`. From scratch: the name of a published
            model in cn_clip, such as `'ViT-B-16'`, or a directory with ModelScope's configuration
            files and a vocab.txt.
        train: The data set, see `cnclip.datasets.open_pairs` for its layouts.
        output: The run's folder. `output/best` becomes a ModelScope model directory.
        val: The data set on which recall is measured: R@1, R@5 and R@10 over all of it, in both
            directions. The weights with the best mean recall are kept; without `val` the last.
        train_split: The split of `train`; by default its only one, or `train`.
        val_split: The split of `val`; by default its only one, or `valid`, `val`, `dev` or `test`.
        from_scratch: Start with random weights.
        resume: Continue the run in `output` after its newest state, with the same losses as
            without the interruption.
        revision: The revision of a model from a hub.
        show_progress: Print a line per log interval on stderr.
        options: Fields of `TrainOptions`.

    Returns:
        The result of the run.

    Raises:
        InvalidInputError, InputTypeError: an option cannot be used, alone or in this run.
        DatasetError: a data set cannot be used.
        CheckpointError, ModelNotFoundError, ...: See `pipeline`.
        ModelRunError: the loss is no longer finite.
        KeyboardInterrupt: Ctrl-C was pressed; the state was saved.
        OSError: the folder cannot be written.
    """
    chosen = _options(options)
    _check_types(model, train, output, val, from_scratch, resume)
    with join_world(chosen.device) as world:
        if chosen.precision == "fp16" and world.device.type != "cuda":
            raise InvalidInputError(
                "fp16 requires a GPU; on a CPU use bf16 or fp32", item="precision"
            )
        folder = RunFolder(Path(output))
        journal = Journal(folder, world, show_progress=show_progress)
        start = sizes_of(model) if from_scratch else read_checkpoint(model, revision)
        data, validation = _open_data(train, train_split, val, val_split, journal)
        loop = TrainingLoop(start, data, validation, chosen, journal, from_scratch=from_scratch)
        if world.is_first:
            folder.prepare(resume=resume)
        world.barrier()
        if resume:
            loop.resume()
        if world.is_first:
            arguments = {
                "model": _absolute(model),
                "train": _absolute(train),
                "val": None if val is None else _absolute(val),
                "train_split": train_split,
                "val_split": val_split,
                "from_scratch": from_scratch,
                "revision": revision,
            }
            folder.write_options(arguments | dataclasses.asdict(chosen))
        with catch_signals(loop.interrupts):
            return loop.run()


def _open_data(
    train: str | Path,
    train_split: str | None,
    val: str | Path | None,
    val_split: str | None,
    journal: Journal,
) -> tuple[PairData, PairData | None]:
    """The data sets for training and validation; prints the rows that cannot be used."""
    problems = Problems()
    data = open_pairs(train, train_split, role="train", problems=problems)
    validation = None if val is None else open_pairs(val, val_split, role="val", problems=problems)
    for problem in problems.found:
        journal.print(str(problem))
    return data, validation


def _options(values: dict[str, Any]) -> TrainOptions:
    unknown = values.keys() - {field.name for field in dataclasses.fields(TrainOptions)}
    if unknown:
        raise InvalidInputError(f"no option {min(unknown)!r}")
    return TrainOptions(**values)


def _check_types(
    model: Any, train: Any, output: Any, val: Any, from_scratch: Any, resume: Any
) -> None:
    paths = {"model": model, "train": train, "output": output}
    for name, path in (paths if val is None else paths | {"val": val}).items():
        if not isinstance(path, str | os.PathLike):
            raise InputTypeError(f"expected a name or path, got {type(path).__name__}", item=name)
    for name, flag in {"from_scratch": from_scratch, "resume": resume}.items():
        if not isinstance(flag, bool):
            raise InputTypeError(f"expected bool, got {type(flag).__name__}", item=name)


def _absolute(name: str | Path) -> str:
    """The absolute path of an existing file; a hub id or name is unchanged."""
    return os.path.abspath(name) if os.path.exists(name) else str(name)
