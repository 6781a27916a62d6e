"""`cnclip eval retrieval` and `cnclip eval zeroshot`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._tables import format_table
from .._text import counted
from ._arguments import (
    add_decode_argument,
    add_download_arguments,
    add_formats_argument,
    add_model_arguments,
    add_pixels_argument,
    open_pipeline,
)

if TYPE_CHECKING:
    from ..datasets import Problem
    from ..evaluate import RetrievalReport, ZeroShotReport

SUMMARY = "evaluate retrieval or zero-shot classification on a data set"

# Problems that are printed on stderr; report.json has all of them.
MAX_PROBLEMS = 1000
SHARED_OPTIONS = ("split", "output", "encoding", "strict")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    tasks = parser.add_subparsers(dest="task", metavar="TASK", required=True)
    retrieval = tasks.add_parser(
        "retrieval",
        help="recall of text to image and image to text search: R@1, R@5, R@10, MR",
        description="Recall of text to image and image to text search, as defined by "
        "Chinese-CLIP's evaluation. Rows that cannot be used are named on stderr; the exit status "
        "is then 1.",
    )
    retrieval.add_argument(
        "dataset",
        metavar="DATASET",
        help="a folder with SPLIT_imgs.tsv and SPLIT_texts.jsonl, a zip of such a folder, a folder "
        "with lmdb/SPLIT/imgs, a folder of images with a metadata.jsonl, or emoji-cn",
    )
    retrieval.add_argument("--split", help="valid, test, ...; required if there are several")
    retrieval.add_argument(
        "--raw-text",
        action="store_true",
        help="do not put texts in lower case with straight quotes, as Chinese-CLIP's evaluation "
        "does",
    )
    zeroshot = tasks.add_parser(
        "zeroshot",
        help="accuracy of zero-shot classification",
        description="Accuracy of classification by class names. Images that cannot be used are "
        "named on stderr; the exit status is then 1.",
    )
    zeroshot.add_argument(
        "dataset",
        metavar="DATASET",
        help="a folder with a folder of images for each class (also in SPLIT/), or a file with "
        "'IMAGE CLASS' on each line",
    )
    zeroshot.add_argument("--split", help="a folder in DATASET, such as test")
    zeroshot.add_argument(
        "--labels",
        metavar="NAME|FILE",
        help="Chinese names of the classes: cifar10, cifar100, caltech101, imagenet, or a file "
        "with a name, or 'folder TAB name', on each line (default: DATASET's label_cn.txt, else "
        "the names of the folders)",
    )
    zeroshot.add_argument(
        "--templates",
        metavar="NAME|FILE",
        help="texts with {} for the name of the class: generic, photo, small, plain, or a file "
        "with one on each line (default: those that suit the labels)",
    )
    for command in (retrieval, zeroshot):
        add_model_arguments(command, recorded=False)
        add_decode_argument(command)
        add_formats_argument(command)
        add_pixels_argument(command)
        command.add_argument(
            "-o", "--output", metavar="DIR", help="write the report and its files to this folder"
        )
        command.add_argument(
            "--encoding",
            help="of text files and of names in zip and tar files (default: UTF-8, UTF-16 or "
            "GB18030, as found)",
        )
        command.add_argument("--strict", action="store_true", help="stop at the first unusable row")
    add_download_arguments(zeroshot)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, and print a table on stdout."""
    from .. import evaluate

    report: RetrievalReport | ZeroShotReport
    data, embedder = arguments.dataset, open_pipeline(arguments)
    options: dict[str, Any] = {name: getattr(arguments, name) for name in SHARED_OPTIONS}
    if arguments.task == "retrieval":
        normalize = not arguments.raw_text
        report = evaluate.retrieval(
            data, embedder, normalize=normalize, **options, show_progress=True
        )
        print(_retrieval_table(report))
    else:
        labels, templates = arguments.labels, arguments.templates
        report = evaluate.zeroshot(
            data, embedder, labels=labels, templates=templates, **options, show_progress=True
        )
        print(_zeroshot_table(report))
    _print_problems(report.problems, arguments.output)
    return 1 if report.skipped else 0


def _print_problems(problems: list[Problem], output: str | None) -> None:
    for problem in problems[:MAX_PROBLEMS]:
        print(problem, file=sys.stderr)
    if len(problems) > MAX_PROBLEMS:
        place = "" if output is None else f"; all are in {Path(output) / 'report.json'}"
        print(f"and {len(problems) - MAX_PROBLEMS} more{place}", file=sys.stderr)


def _retrieval_table(report: RetrievalReport) -> str:
    """Format a report as a heading, a table, and the source of the published figures."""
    from ..evaluate.words import WORDS

    words = WORDS["en"]
    rows = report.table(words)
    notes = [
        f"{getattr(words, name)}: no recall, since no text names an image"
        for name in ("text_to_image", "image_to_text")
        if getattr(report, name) is None
    ]
    if report.published:
        notes.append(f"published: {report.published['model']} on {report.published['data_set']}")
    skipped = f", {counted(report.skipped, 'rows')} skipped" if report.skipped else ""
    truncated = f", {report.truncated} truncated" if report.truncated else ""
    if report.unknown:
        truncated += f", {report.unknown} of unknown characters only"
    heading = [
        f"{report.dataset}, {report.split}: {counted(report.texts, 'texts')}, "
        f"{counted(report.images, 'images')}{skipped}",
        f"model {report.model}, {report.precision}; texts: "
        f"{words.normalized if report.normalized else words.raw}{truncated}",
        "",
    ]
    right = [False] + [True] * (len(rows[0]) - 1)
    table = [format_table(rows, right, underlined=False)] if len(rows) > 1 else []
    return "\n".join([*heading, *table, *notes])


def _zeroshot_table(report: ZeroShotReport) -> str:
    """Format a report as a heading and a table."""
    from ..evaluate.words import WORDS

    rows = [(name, f"{value:.2f}") for name, value in report.figures(WORDS["en"]).items()]
    skipped = f", {report.skipped} skipped" if report.skipped else ""
    classes = "1 class" if len(report.labels) == 1 else f"{len(report.labels)} classes"
    templates = counted(len(report.templates), "templates")
    return (
        f"{report.dataset}: {counted(report.images, 'images')} of {classes}{skipped}\n"
        f"model {report.model}, {report.precision}; {templates}, such as "
        f"{report.templates[0]}\n\n"
        f"{format_table(rows, [False, True], underlined=False)}"
    )
