"""Start or resume a training run: `finetune`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from .._files import write_durably
from ..checkpoints.modelscope import untrained_checkpoint
from ..datasets import Problems
from ..datasets.pairs import PairData, open_pairs
from ..errors import InputTypeError, InvalidInputError
from ..models import read_checkpoint
from .journal import Journal
from .loop import TrainingLoop, TrainReport
from .options import TrainOptions
from .process import catch_signals, join_world
from .run_folder import OPTIONS, prepare_folder


def finetune(
    model: str | Path,
    train: str | Path | PairData,
    output: str | Path,
    *,
    val: str | Path | PairData | None = None,
    train_split: str | None = None,
    val_split: str | None = None,
    from_scratch: bool = False,
    resume: bool = False,
    revision: str | None = None,
    encoding: str | None = None,
    show_progress: bool = True,
    **options: Any,
) -> TrainReport:
    """Train a Chinese-CLIP on pairs of images and texts.

    Under torchrun, all its processes train together: over nccl on GPUs, else over gloo.

    Args:
        model: A name, path or hub id, as for `pipeline`. From scratch: the name of a published
            model in cn_clip, such as `'ViT-B-16'`, or a directory with ModelScope's configuration
            files and a vocab.txt.
        train: The data set, see `cnclip.datasets.open_pairs` for its layouts; or its pairs.
        output: The run's folder. `output/best` becomes a ModelScope model directory.
        val: The data set on which recall is measured: R@1, R@5 and R@10 over all of it, in both
            directions. The weights with the best mean recall are kept; without `val` the last.
        train_split: The split of `train`; by default its only one, or `train`.
        val_split: The split of `val`; by default its only one, or `valid`, `val`, `dev` or `test`.
        from_scratch: Start with random weights.
        resume: Continue the run in `output` after its newest state, with the same losses as
            without the interruption.
        revision: The revision of a model from a hub.
        encoding: The encoding of text files, and of names in archives; by default as found.
        show_progress: Print a line per log interval on stderr.
        options: Fields of `TrainOptions`.

    Returns:
        The result of the run.

    Raises:
        InvalidInputError, InputTypeError: an option cannot be used, alone or in this run; the data
            sets for training and validation are the same, and `val_split` does not ask for it; or
            another run writes to the folder.
        DatasetError: a data set cannot be used.
        CheckpointError, ModelNotFoundError, ...: See `pipeline`.
        ModelRunError: the loss is no longer finite.
        KeyboardInterrupt: Ctrl-C was pressed; the state was saved.
        OSError: the folder cannot be written.
    """
    chosen = _options(options)
    arguments = {
        "model": model,
        "train": train,
        "val": val,
        "train_split": train_split,
        "val_split": val_split,
        "from_scratch": from_scratch,
        "revision": revision,
        "encoding": encoding,
    }
    _check_types(arguments | {"output": output, "resume": resume})
    return _run(Path(output), arguments, chosen, resume=resume, show_progress=show_progress)


def _options(values: dict[str, Any]) -> TrainOptions:
    unknown = values.keys() - {field.name for field in dataclasses.fields(TrainOptions)}
    if unknown:
        raise InvalidInputError(f"no option {min(unknown)!r}")
    return TrainOptions(**values)


def _check_types(arguments: dict[str, Any]) -> None:
    for name in ("model", "train", "output", "val"):
        path = arguments[name]
        if isinstance(path, PairData) and name in ("train", "val"):
            continue
        if not isinstance(path, str | os.PathLike) and not (name == "val" and path is None):
            raise InputTypeError(f"expected a name or path, got {type(path).__name__}", item=name)
    for name in ("from_scratch", "resume"):
        if not isinstance(arguments[name], bool):
            found = type(arguments[name]).__name__
            raise InputTypeError(f"expected bool, got {found}", item=name)


def _run(
    folder: Path,
    arguments: dict[str, Any],
    options: TrainOptions,
    *,
    resume: bool,
    show_progress: bool,
) -> TrainReport:
    """Start or resume a run, whose folder records its arguments and options."""
    model, from_scratch = arguments["model"], arguments["from_scratch"]
    with join_world(options.device) as world, contextlib.ExitStack() as stack:
        if options.precision == "fp16" and world.device.type != "cuda":
            raise InvalidInputError(
                "fp16 requires a GPU; on a CPU use bf16 or fp32", item="precision"
            )
        journal = Journal(folder, world, show_progress=show_progress)
        if from_scratch:
            start = untrained_checkpoint(model)
        else:
            start = read_checkpoint(model, arguments["revision"])
        problems = Problems()
        data, validation = _open_data(arguments, problems)
        for problem in problems.found:
            journal.print(str(problem))
        loop = TrainingLoop(
            start, data, validation, options, folder, journal, from_scratch=from_scratch
        )
        if world.is_first:
            stack.enter_context(prepare_folder(folder, resume=resume))
        world.barrier()
        if resume:
            loop.resume()
        if world.is_first:
            recorded = _absolute(arguments) | dataclasses.asdict(options)
            text = json.dumps(recorded, indent=1, ensure_ascii=False) + "\n"
            write_durably(folder / OPTIONS, text.encode())
        with catch_signals(loop.interrupts):
            report = loop.run()
        left_out = sum(problem.skipped for problem in problems.found)
        return dataclasses.replace(report, left_out=left_out)


def _open_data(arguments: dict[str, Any], problems: Problems) -> tuple[PairData, PairData | None]:
    """The data sets for training and validation.

    Raises:
        InvalidInputError: they are the same, and `val_split` does not ask for it.
    """
    train, val = arguments["train"], arguments["val"]
    options: dict[str, Any] = {"problems": problems, "encoding": arguments["encoding"]}
    data = train
    if not isinstance(data, PairData):
        data = open_pairs(train, arguments["train_split"], role="train", **options)
    if val is None or isinstance(val, PairData):
        validation = val
    else:
        validation = open_pairs(val, arguments["val_split"], role="val", **options)
        if arguments["val_split"] is None and validation.fingerprint == data.fingerprint:
            raise InvalidInputError(
                f"has the same pairs as train (split {validation.split!r}): choose other data or "
                f"another split, or set val_split to {validation.split!r} to validate on them",
                item="val",
            )
    return data, validation


def _absolute(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments with absolute paths, where they are those of existing files.

    Of pairs, the name of the data set is recorded.
    """
    recorded = dict(arguments)
    for name in ("model", "train", "val"):
        value = arguments[name]
        if isinstance(value, PairData):
            recorded[name] = value.name
        elif value:
            recorded[name] = os.path.abspath(value) if os.path.exists(value) else str(value)
    return recorded
