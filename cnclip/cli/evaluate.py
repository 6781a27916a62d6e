"""`cnclip eval retrieval` and `cnclip eval zeroshot`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ._arguments import add_model_arguments, open_pipeline

if TYPE_CHECKING:
    from ..datasets import Problem
    from ..evaluate import RetrievalReport, ZeroShotReport

SUMMARY = "evaluate retrieval or zero-shot classification on a data set"

# Of the problems, on stderr; all are in the report.
MAX_PROBLEMS = 1000


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    retrieval = kinds.add_parser(
        "retrieval",
        help="texts find images, images find texts: R@1, R@5, R@10, MR",
        description="Recall of text to image and image to text, as Chinese-CLIP's evaluation "
        "defines it. Exit status 1 if rows could not be used; each is named.",
    )
    retrieval.add_argument(
        "dataset",
        metavar="DATASET",
        help="a folder with SPLIT_imgs.tsv and SPLIT_texts.jsonl, a zip of it, one with "
        "lmdb/SPLIT/imgs, a folder of images with a metadata.jsonl, or emoji-cn",
    )
    retrieval.add_argument("--split", help="valid, test, ...; needed where there are several")
    retrieval.add_argument(
        "--raw-text",
        action="store_true",
        help="leave texts as they are; else they get lower case and straight quotes, as in "
        "Chinese-CLIP's own evaluation",
    )
    zeroshot = kinds.add_parser(
        "zeroshot",
        help="accuracy of zero-shot classification",
        description="Accuracy of classification by class names. Exit status 1 if images could "
        "not be used; each is named.",
    )
    zeroshot.add_argument(
        "dataset",
        metavar="DATASET",
        help="a folder with a folder of images for each class (also in SPLIT/), or a list of "
        "'IMAGE CLASS' lines",
    )
    zeroshot.add_argument("--split", help="a folder in DATASET, such as test")
    zeroshot.add_argument(
        "--labels",
        metavar="NAME|FILE",
        help="Chinese names of the classes: cifar10, cifar100, caltech101, imagenet, or a file "
        "with a name, or 'folder TAB name', on each line; by default DATASET's label_cn.txt, else "
        "the folders' names",
    )
    zeroshot.add_argument(
        "--templates",
        metavar="NAME|FILE",
        help="texts with {} for the class's name: generic, photo, small, plain, or a file with "
        "one on each line; by default those that go with the labels",
    )
    for command in (retrieval, zeroshot):
        add_model_arguments(command)
        command.add_argument(
            "-o", "--output", metavar="DIR", help="write the report and its files there"
        )
        command.add_argument(
            "--strict", action="store_true", help="stop at the first row that cannot be used"
        )


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, and print a table on stdout."""
    from .. import evaluate

    if arguments.kind == "retrieval":
        found = evaluate.retrieval(
            arguments.dataset,
            open_pipeline(arguments),
            split=arguments.split,
            output=arguments.output,
            normalize=not arguments.raw_text,
            strict=arguments.strict,
            show_progress=True,
        )
        print(retrieval_table(found))
        problems = found.problems
    else:
        classified = evaluate.zeroshot(
            arguments.dataset,
            open_pipeline(arguments),
            split=arguments.split,
            labels=arguments.labels,
            templates=arguments.templates,
            output=arguments.output,
            strict=arguments.strict,
            show_progress=True,
        )
        print(zeroshot_table(classified))
        problems = classified.problems
    _print_problems(problems, arguments.output)
    return 1 if problems else 0


def _print_problems(problems: list[Problem], output: str | None) -> None:
    for problem in problems[:MAX_PROBLEMS]:
        print(problem, file=sys.stderr)
    if len(problems) > MAX_PROBLEMS:
        place = "" if output is None else f"; all are in {Path(output) / 'report.json'}"
        print(f"and {len(problems) - MAX_PROBLEMS} more{place}", file=sys.stderr)


def retrieval_table(report: RetrievalReport) -> str:
    """The table that people read."""
    from ..evaluate.published import SETTINGS

    columns = ("R@1", "R@5", "R@10", "MR")
    words = "in lower case, with straight quotes" if report.normalized else "as they are"
    cut = f", {report.truncated} of them cut" if report.truncated else ""
    left_out = f", {report.skipped} rows left out" if report.skipped else ""
    lines = [
        f"{report.dataset}, {report.split}: {report.texts} texts, {report.images} images{left_out}",
        f"model {report.model}, {report.precision}; texts {words}{cut}",
        "",
        f"{'':42}" + "".join(f"{column:>8}" for column in columns),
    ]

    def row(title: str, figures: dict[str, float]) -> str:
        cells = (f"{figures[c]:8.2f}" if c in figures else f"{'':8}" for c in columns)
        return f"{title:42}{''.join(cells)}".rstrip()

    for title, name in (("text to image", "text_to_image"), ("image to text", "image_to_text")):
        measured = getattr(report, name)
        if measured is None:
            lines.append(f"{title}: no recall, since no text names an image")
            continue
        lines.append(row(title, measured))
        for setting, figures in ((report.published or {}).get(name) or {}).items():
            lines.append(row(f"  published by the authors, {SETTINGS[setting]}", figures))
    if report.published:
        lines.append(f"published: {report.published['model']} on {report.published['data_set']}")
    return "\n".join(lines)


def zeroshot_table(report: ZeroShotReport) -> str:
    """The table that people read."""
    left_out = f", {len(report.problems)} left out" if report.problems else ""
    return "\n".join(
        [
            f"{report.dataset}: {report.images} images of {len(report.labels)} classes{left_out}",
            f"model {report.model}, {report.precision}; {len(report.templates)} templates, such as "
            f"{report.templates[0]}",
            "",
            f"{'top-1':22}{report.top1:8.2f}",
            f"{'top-5':22}{report.top5:8.2f}" if report.top5 is not None else "",
            f"{'mean of the classes':22}{report.mean_per_class:8.2f}",
        ]
    ).replace("\n\n\n", "\n\n")
