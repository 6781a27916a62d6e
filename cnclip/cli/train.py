"""`cnclip train`."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

from ..errors import InvalidInputError
from ..train.options import TrainOptions
from ._arguments import add_formats_argument, add_options, add_pixels_argument

SUMMARY = "fine-tune a Chinese-CLIP, or train one from scratch"

# Arguments of `finetune` that are not fields of TrainOptions.
_ARGUMENTS = (
    *("model", "train", "val", "train_split", "val_split"),
    *("from_scratch", "revision", "encoding"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Contrastive training on pairs of images and Chinese texts. Options have cn_clip's "
        "names where it has them. Several processes: torchrun --nproc-per-node N -m cnclip train "
        "... Rows and images that cannot be read are reported and skipped; the exit status is then "
        "1."
    )
    # The default of every option is None, "not given": its value then comes from a file, or is
    # the default of TrainOptions.
    parser.add_argument("--model", metavar="SRC", help="the initial model, as for `convert`")
    parser.add_argument(
        "--train",
        "--train-data",
        metavar="DATA",
        help="SPLIT_imgs.tsv with SPLIT_texts.jsonl, cn_clip's LMDB, images with a JSON Lines or "
        "CSV file, webdataset tars, or Parquet files",
    )
    parser.add_argument(
        "--val", "--val-data", metavar="DATA", help="the data set on which recall is measured"
    )
    parser.add_argument("-o", "--output", metavar="RUN", help="the run's folder")
    parser.add_argument(
        "--train-split", help="the split of --train; by default its only one, or train"
    )
    parser.add_argument(
        "--val-split", help="the split of --val; by default its only one, or valid, val, dev, test"
    )
    parser.add_argument(
        "--from-scratch",
        action="store_const",
        const=True,
        help="start with random weights: --model is ViT-B-16, ..., or a directory with "
        "ModelScope's configuration files and a vocab.txt",
    )
    parser.add_argument("--revision", help="the revision of a model from a hub")
    parser.add_argument(
        "--encoding",
        help="of text files and of names in zip and tar files (default: UTF-8, UTF-16 or GB18030, "
        "as found)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in -o, with its options by default",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="options from a TOML, YAML or JSON file; the command line overrides it",
    )
    add_options(parser.add_argument_group("training options"), TrainOptions)
    add_formats_argument(parser)
    add_pixels_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train, and print the path of the model."""
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
    # torchrun would treat exit status 1 as a crash and restart the processes.
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    return 1 if (report.skipped or report.left_out) and alone else 0


def _values(arguments: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `finetune`: from the command line, then --config, then the run to resume."""
    from ..train.run_folder import OPTIONS

    known = {*_ARGUMENTS, *(option.name for option in dataclasses.fields(TrainOptions))}
    if arguments.output is None:
        raise InvalidInputError("-o RUN is required: the folder of the run")
    started = Path(arguments.output) / OPTIONS
    files = [started] if arguments.resume and started.exists() else []
    files += [] if arguments.config is None else [Path(arguments.config)]
    values: dict[str, Any] = {}
    for file in files:
        read = TrainOptions.read(file)
        if unknown := read.keys() - known:
            raise InvalidInputError(f"no option {min(unknown)!r}", file=file)
        values |= read
    given = vars(arguments)
    values |= {name: given[name] for name in known if given.get(name) is not None}
    for name in ("model", "train"):
        if values.get(name) is None:
            raise InvalidInputError(f"--{name} is required")
    return values
