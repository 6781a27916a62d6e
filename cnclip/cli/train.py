"""`cnclip train`."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

from ..errors import InvalidInputError
from ..train.options import TrainOptions, type_of

SUMMARY = "fine-tune a Chinese-CLIP, or train one from scratch"

# Beside the fields of TrainOptions: what `finetune` takes.
_ARGUMENTS = ("model", "train", "val", "train_split", "val_split", "from_scratch", "revision")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Contrastive training on pairs of images and Chinese texts. Options have cn_clip's "
        "names where it has them. Several processes: torchrun --nproc-per-node N -m cnclip train "
        "... Exit status 1 if images could not be read; each is named, and left out."
    )
    # None stands for "not given": a file's value, or the default, is taken then.
    parser.add_argument("--model", metavar="SRC", help="what to begin with, as for `convert`")
    parser.add_argument(
        "--train",
        "--train-data",
        metavar="DATA",
        help="SPLIT_imgs.tsv with SPLIT_texts.jsonl, cn_clip's LMDB, images with a JSON Lines or "
        "CSV file, webdataset tars, or parquet files",
    )
    parser.add_argument(
        "--val", "--val-data", metavar="DATA", help="the same, to measure recall on"
    )
    parser.add_argument("-o", "--output", metavar="RUN", help="the run's folder")
    parser.add_argument("--train-split", help="of --train, where there are several (train)")
    parser.add_argument("--val-split", help="of --val (valid, val, dev, or test)")
    parser.add_argument(
        "--from-scratch",
        action="store_const",
        const=True,
        help="begin with random weights: --model is ViT-B-16, ..., or a directory with "
        "ModelScope's configuration files and a vocab.txt",
    )
    parser.add_argument("--revision", help="of a hub's model")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in -o; other options are then those that it was started with",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="options from a TOML, YAML or JSON file; flags come first"
    )
    _add_options(parser)


def _add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("options of the training")
    for one in dataclasses.fields(TrainOptions):
        kind, _ = type_of(one.name)
        shown = "" if one.default in (None, False) else f" (default: {one.default})"
        text = one.metadata["help"].replace("%", "%%") + shown
        flag = f"--{one.name.replace('_', '-')}"
        if kind is bool:
            group.add_argument(flag, default=None, action=argparse.BooleanOptionalAction, help=text)
        else:
            choices = one.metadata.get("choices")
            group.add_argument(
                flag,
                type=kind,
                default=None,
                help=text,
                choices=choices,
                metavar=None if choices else kind.__name__.upper(),
            )


def run(arguments: argparse.Namespace) -> int:
    """Train, and print where the model is."""
    values = _values(arguments)
    from ..train import finetune

    report = finetune(
        values.pop("model"),
        values.pop("train"),
        arguments.output,
        resume=arguments.resume,
        **values,
    )
    if int(os.environ.get("RANK", "0")) == 0:
        print(report.path / "best")
    # torchrun takes a status of 1 for a crash, and starts again.
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    return 1 if report.skipped and alone else 0


def _values(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was asked for: flags, before a file, before what the run to resume was started with."""
    from ..train.run_folder import OPTIONS

    known = {*_ARGUMENTS, *(one.name for one in dataclasses.fields(TrainOptions))}
    values: dict[str, Any] = {}
    if arguments.output is None:
        raise InvalidInputError("-o RUN is needed: the folder of the run")
    started = Path(arguments.output) / OPTIONS
    if arguments.resume and started.exists():
        values |= TrainOptions.read(started)
    if arguments.config is not None:
        values |= TrainOptions.read(arguments.config)
    given = vars(arguments)
    values |= {name: given[name] for name in known if given.get(name) is not None}
    for name in values:
        if name not in known:
            raise InvalidInputError(f"{arguments.config or started}: no option {name!r}")
    for name in ("model", "train"):
        if values.get(name) is None:
            raise InvalidInputError(f"--{name} is needed")
    return values
