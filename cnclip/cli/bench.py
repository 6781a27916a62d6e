"""`cnclip bench [MODEL]`."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path

from .._files import write_durably
from ..benchmark import (
    BenchmarkReport,
    Settings,
    format_report,
    random_archive,
    run_benchmark,
)
from ..checkpoints.published_sizes import PUBLISHED_SIZES
from ._arguments import BUNDLED_MODEL, add_options, check_output_file, options_of

SUMMARY = "measure how fast this machine embeds"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    model = parser.add_mutually_exclusive_group()
    model.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        default=BUNDLED_MODEL,
        help="as for --model of embed (default: %(default)s)",
    )
    model.add_argument(
        "--random",
        metavar="ARCHITECTURE",
        choices=PUBLISHED_SIZES,
        help=f"a model of a published size with random weights: {', '.join(PUBLISHED_SIZES)}",
    )
    add_options(parser, Settings)
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="also write the report as JSON; - writes it to stdout instead of the table",
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the table, write the JSON."""
    settings = options_of(arguments, Settings)
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
        write_durably(Path(json_path), f"{content}\n".encode())
    print(format_report(report))
