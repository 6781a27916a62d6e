"""Arguments and messages that several commands share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from .._text import printable
from ..errors import InvalidInputError, ModelNotFoundError
from ..pipelines import MultiModalEmbeddingPipeline, pipeline

if TYPE_CHECKING:
    from ..search import Collection

BUNDLED_MODEL = "emoji-cn"


def add_model_arguments(parser: argparse._ActionsContainer) -> None:
    """Add --model, --precision, --device and --threads: which model embeds, where and how."""
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="a model directory, a checkpoint, an archive, or a hub id such as "
        "damo/multi-modal_clip-vit-base-patch16_zh (default: the model that the index or the "
        f"embeddings record, else the bundled {BUNDLED_MODEL})",
    )
    parser.add_argument(
        "--precision",
        help="fp32, bf16, int8, or fp16 on a GPU (default: what the index or the embeddings "
        "record, else fp32)",
    )
    parser.add_argument(
        "--device", default="gpu", help="gpu, cpu or cuda:N (default: a GPU, else the CPU)"
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads (default: one per core)"
    )


def open_pipeline(
    arguments: argparse.Namespace, *, model: str | None = None, precision: str | None = None
) -> MultiModalEmbeddingPipeline:
    """Open the model that the arguments name.

    Args:
        arguments: With those of `add_model_arguments`.
        model: Used where --model is not given; by default the bundled model, which is reported.
        precision: Used where --precision is not given; by default fp32.

    Raises:
        CnclipError: As `pipeline` raises.
    """
    name = arguments.model or model
    if name is None:
        name = BUNDLED_MODEL
        print(
            f"cnclip {arguments.command}: using the bundled {name} model, which mostly knows "
            "emoji; choose another with --model",
            file=sys.stderr,
        )
    return pipeline(
        model=name,
        precision=arguments.precision or precision or "fp32",
        device=arguments.device,
        num_threads=arguments.threads,
    )


def open_model_of(
    collection: Collection, arguments: argparse.Namespace
) -> MultiModalEmbeddingPipeline:
    """Open the model that a collection was made with, or the one that the arguments name.

    Raises:
        InvalidInputError: the collection does not record a model, and --model is not given.
        ModelNotFoundError: there is no such model.
        CnclipError: As `pipeline` raises.
    """
    model = (collection.model or {}).get("name")
    if arguments.model is None and not model:
        raise InvalidInputError("does not record a model; pass --model", item=collection.name)
    try:
        return open_pipeline(arguments, model=model, precision=collection.precision)
    except ModelNotFoundError as error:
        if arguments.model is not None:
            raise
        reason = f"was made with the model {model!r}, which was not found; pass its path as --model"
        raise ModelNotFoundError(reason, item=collection.name) from error


def integer(minimum: int, maximum: int) -> Callable[[str], int]:
    """An argparse type: an integer within bounds."""

    def parse(text: str) -> int:
        number = int(text) if text.isascii() and text.isdecimal() else -1
        if not minimum <= number <= maximum:
            raise argparse.ArgumentTypeError(
                f"expected a number from {minimum} to {maximum}, got {text!r}"
            )
        return number

    return parse


def check_output_file(path: Path) -> None:
    """Refuse an output file that cannot be written, before any work.

    Raises:
        InvalidInputError: The path is a directory, or its directory does not exist.
    """
    if path.is_dir():
        raise InvalidInputError("is a directory, expected a file name", file=path)
    if not path.parent.is_dir():
        raise InvalidInputError("no such directory", file=path.parent)


def print_failed(
    command: str, failed: Iterable[tuple[str, str]], total: int, rest: str, *, maximum: int = 1000
) -> None:
    """Name the items that failed on stderr, at most `maximum`, and count the others.

    Args:
        command: The command's name.
        failed: The name of each item and its reason; may end before `total`.
        total: Failed items in all.
        rest: Where the others are recorded.
        maximum: Items to name.
    """
    named = 0
    for name, reason in failed:
        if named == maximum:
            break
        print(f"cnclip {command}: {printable(name)}: {reason}", file=sys.stderr)
        named += 1
    if total > named:
        print(f"cnclip {command}: {total - named} more failed; {rest}", file=sys.stderr)
