"""`cnclip embed SOURCE... -o OUT`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..bulk import Report

SUMMARY = "embed images or texts of any number to a folder"

# The model that ships, which is small.
_SHIPPED = "emoji-cn"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Embed images or texts of any number to a folder: .npy shards, and Parquet files with a "
        "line for each item. A run that was cut off goes on where it was; a later run embeds what "
        "is new or changed, and lets go what is there no more. Exit status 1 if items failed; each "
        "is named, and recorded."
    )
    parser.add_argument(
        "sources",
        metavar="SOURCE",
        nargs="+",
        help="a folder, gone through with all in it; a list of paths or URLs (.txt, or - for "
        "stdin); .jsonl, .csv, .tsv or .parquet with a column of images; Chinese-CLIP's "
        "SPLIT_imgs.tsv; a .tar as WebDataset makes it; a .zip; an image; a pattern of files",
    )
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="the folder")
    parser.add_argument(
        "--texts",
        action="store_true",
        help="the sources hold texts: .txt or - (one on each line), .jsonl, .csv, .tsv, .parquet",
    )
    parser.add_argument(
        "--model",
        default=_SHIPPED,
        help="a model directory, archive, or hub's name (default: %(default)s, which ships and is "
        "small)",
    )
    parser.add_argument("--precision", default="fp32", help="default: %(default)s")
    parser.add_argument("--device", default="gpu", help="default: %(default)s, else the CPU")
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU; default: one a core")
    parser.add_argument(
        "--dtype",
        choices=("float16", "float32"),
        default="float16",
        help="what is stored; default: %(default)s",
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
        "--retry", action="store_true", help="try again what failed before, as URLs may"
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="let go what came of sources that are not named this time",
    )


def run(arguments: argparse.Namespace) -> int:
    """Embed, and say what is there now."""
    from ..bulk import embed

    if arguments.model == _SHIPPED:
        print(
            f"cnclip embed: with {_SHIPPED}, which ships and knows little but emoji; --model takes "
            "another",
            file=sys.stderr,
        )
    report = embed(
        arguments.sources,
        arguments.model,
        output=arguments.output,
        kind="texts" if arguments.texts else "images",
        dtype=arguments.dtype,
        precision=arguments.precision,
        device=arguments.device,
        num_threads=arguments.threads,
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
    from ..bulk.items import printable

    for name, error in report.first_failed:
        print(f"{printable(name)}: {error}", file=sys.stderr)
    if report.failed > len(report.first_failed):
        more = report.failed - len(report.first_failed)
        print(f"and {more} more; all are in the Parquet files, with `error`", file=sys.stderr)
    if report.left_out:
        kinds = (f"{n} {end or 'without an ending'}" for end, n in sorted(report.left_out.items()))
        print(f"left out, no images by their names: {', '.join(kinds)}", file=sys.stderr)
    print(
        f"{report.output}: {report.rows} {report.kind} of {report.dim} columns: {report.embedded} "
        f"embedded, {report.kept} kept, {report.failed} failed"
    )
