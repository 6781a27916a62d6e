"""`cnclip bench [MODEL]`."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path

from ..benchmark import (
    PRECISIONS,
    BenchmarkReport,
    Settings,
    format_report,
    random_archive,
    run_benchmark,
)
from ..checkpoints.published_sizes import PUBLISHED_SIZES
from ._arguments import check_output_file

SUMMARY = "measure how fast this machine embeds"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    defaults = Settings()
    model = parser.add_mutually_exclusive_group()
    model.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        default="emoji-cn",
        help="as for --model of embed (default: %(default)s)",
    )
    model.add_argument(
        "--random",
        metavar="ARCHITECTURE",
        choices=PUBLISHED_SIZES,
        help=f"a model of a published size with random weights: {', '.join(PUBLISHED_SIZES)}",
    )
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=PRECISIONS,
        default=PRECISIONS,
        help="precisions to measure (default: all)",
    )
    parser.add_argument(
        "--batch-sizes",
        nargs="+",
        type=int,
        metavar="N",
        default=defaults.batch_sizes,
        help=f"items per call (default: {' '.join(map(str, defaults.batch_sizes))})",
    )
    parser.add_argument(
        "--threads", nargs="+", type=int, metavar="N", help="CPU threads (default: one per core)"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        default=defaults.rounds,
        help="measurements of each case (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        metavar="S",
        default=defaults.seconds,
        help="start no further round after this time (default: %(default)g)",
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="also write the report as JSON; - writes it to stdout instead of the table",
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the table, write the JSON."""
    settings = Settings(
        precisions=tuple(dict.fromkeys(arguments.precisions)),
        batch_sizes=tuple(dict.fromkeys(arguments.batch_sizes)),
        threads=tuple(dict.fromkeys(arguments.threads)) if arguments.threads else None,
        rounds=arguments.rounds,
        seconds=arguments.seconds,
    )
    if arguments.json not in (None, "-"):
        check_output_file(Path(arguments.json))  # before minutes of work
    with contextlib.ExitStack() as stack:
        if arguments.random:
            model = str(stack.enter_context(random_archive(arguments.random)))
            name = f"{arguments.random} with random weights"
        else:
            model = name = arguments.model
        report = run_benchmark(model, settings, name=name, progress=_print_progress)
    _write(report, arguments.json)
    return 0


def _print_progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _write(report: BenchmarkReport, json_path: str | None) -> None:
    content = json.dumps(report.as_json(), indent=1, ensure_ascii=False)
    if json_path == "-":
        print(content)
        return
    if json_path is not None:
        Path(json_path).write_text(content + "\n", encoding="utf-8")
    print(format_report(report))
