"""`cnclip embed SOURCE... -o OUT`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ._arguments import add_model_arguments, open_pipeline, print_failed

if TYPE_CHECKING:
    from ..bulk import Report

SUMMARY = "embed images or texts of any number to a folder"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Embed images or texts of any number to a folder: .npy shards, and Parquet files with a "
        "line for each item. An interrupted run resumes; a later run embeds new and changed items, "
        "and drops what is gone. Exit status 1 if items failed; each is named and recorded."
    )
    parser.add_argument(
        "sources",
        metavar="SOURCE",
        nargs="+",
        help="a folder, with its subfolders; a list of paths or URLs (.txt, or - for "
        "stdin); .jsonl, .csv, .tsv or .parquet with a column of images; Chinese-CLIP's "
        "SPLIT_imgs.tsv; a .tar as WebDataset makes it; a .zip; an image; a pattern of files",
    )
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="the folder")
    parser.add_argument(
        "--texts",
        action="store_true",
        help="the sources hold texts: .txt or - (one on each line), .jsonl, .csv, .tsv, .parquet",
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--dtype",
        choices=("float16", "float32"),
        default="float16",
        help="type of the stored embeddings (default: %(default)s)",
    )
    parser.add_argument("--column", metavar="NAME", help="of tables: the images or texts")
    parser.add_argument("--id-column", metavar="NAME", help="of tables: the ids")
    parser.add_argument(
        "--batch-size", type=int, metavar="N", default=8, help="images; default: %(default)s"
    )
    parser.add_argument(
        "--shard-items",
        type=int,
        metavar="N",
        default=8192,
        help="items of a shard; default: %(default)s",
    )
    parser.add_argument(
        "--retry", action="store_true", help="try items again that failed in an earlier run"
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="drop embeddings of sources that are not listed",
    )


def run(arguments: argparse.Namespace) -> int:
    """Embed, and report what the folder holds."""
    from ..bulk import embed

    report = embed(
        arguments.sources,
        open_pipeline(arguments),
        output=arguments.output,
        kind="texts" if arguments.texts else "images",
        dtype=arguments.dtype,
        column=arguments.column,
        id_column=arguments.id_column,
        batch_size=arguments.batch_size,
        shard_items=arguments.shard_items,
        retry=arguments.retry,
        replace=arguments.replace,
        show_progress=True,
    )
    _print(report)
    if report.rows == 0:
        return 2
    return 1 if report.failed else 0


def _print(report: Report) -> None:
    print_failed(
        "embed", report.first_failed, report.failed, "the Parquet files have all, see `error`"
    )
    if report.left_out:
        kinds = (f"{n} {end or 'without a suffix'}" for end, n in sorted(report.left_out.items()))
        print(f"skipped, not image files by their names: {', '.join(kinds)}", file=sys.stderr)
    print(
        f"{report.output}: {report.rows} {report.kind} of {report.dim} columns: {report.embedded} "
        f"embedded, {report.kept} kept, {report.failed} failed"
    )
