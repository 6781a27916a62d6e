"""`cnclip embed SOURCE... -o OUT`."""

from __future__ import annotations

import argparse

from .._text import counted
from ._arguments import (
    add_download_arguments,
    add_model_arguments,
    add_options,
    add_resize_argument,
    open_pipeline,
    options_of,
    print_embedded,
)

SUMMARY = "embed images or texts of any number to a folder"
WORDS = "sources"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    from ..bulk import EmbedOptions

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
        "stdin); .jsonl, .json, .csv, .tsv or .parquet with a column of images; Chinese-CLIP's "
        "SPLIT_imgs.tsv; a .tar as WebDataset makes it, or .tar.gz; a .zip; an image or its "
        "URL; a pattern of files",
    )
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="the folder")
    parser.add_argument(
        "--texts",
        action="store_true",
        help="the sources hold texts: .txt or - (one on each line), .jsonl, .json, .csv, .tsv, "
        ".parquet",
    )
    add_model_arguments(parser, recorded=False)
    add_resize_argument(parser)
    add_options(parser, EmbedOptions, without="kind")
    add_download_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Embed, and report the number of embeddings."""
    from ..bulk import EmbedOptions, embed

    options = options_of(arguments, EmbedOptions, kind="texts" if arguments.texts else "images")
    report = embed(
        arguments.sources, open_pipeline(arguments), arguments.output, options, show_progress=True
    )
    rest = "all are in the Parquet files, column `error`"
    print_embedded("embed", report, rest)
    print(
        f"{report.output}: {counted(report.rows, report.kind)} of {report.dim} columns: "
        f"{report.embedded} embedded, {report.kept} kept, {report.failed} failed"
    )
    if report.rows == 0:
        return 2
    return 1 if report.failed else 0
