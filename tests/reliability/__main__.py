"""Crashes and failures of the file system, under everything that writes: `make reliability`.

    python -m tests.reliability [--every 1] [SCENARIO ...]

Prints the figures of each scenario, and what was wrong; the exit status is 1 if anything was.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from tests.reliability.operations import start_with_library

COLUMNS = (
    *("scenario", "operations", "states", "tried", "failures", "next runs", "findings", "seconds"),
)


def main() -> int:
    """Run the scenarios in a process with the library."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability")
    parser.add_argument("names", metavar="SCENARIO", nargs="*", help="default: all")
    parser.add_argument(
        "--every", type=int, default=1, help="of so many crashes and failures, one is tried"
    )
    arguments = parser.parse_args()
    work = start_with_library()
    try:
        return _run(arguments.names, arguments.every, work)
    finally:
        shutil.rmtree(work)


def _run(names: list[str], every: int, work: Path) -> int:
    from tests.support.one_engine import use_one_engine

    use_one_engine()
    from tests.reliability.crashes import Figures, Started, check_crashes, record
    from tests.reliability.faults import check_faults
    from tests.reliability.scenarios import ALL

    known = {scenario.name: scenario for scenario in ALL}
    if unknown := set(names) - known.keys():
        print(f"no scenario {min(unknown)!r}: there are {', '.join(known)}", file=sys.stderr)
        return 2
    total = Figures()
    _print_row(COLUMNS)
    start = time.monotonic()
    for name in names or known:
        begin = time.monotonic()
        scenario, log = known[name](work), work / "log"
        recording, started = record(scenario, log), Started()
        figures = check_crashes(scenario, recording, started, every, log)
        figures.add(check_faults(scenario, recording, started, every, log))
        total.add(figures)
        _print_row((name, *figures.row(), round(time.monotonic() - begin)))
        for finding in figures.findings:
            print(f"  {finding}", flush=True)
    _print_row(("all", *total.row(), round(time.monotonic() - start)))
    return 1 if total.findings else 0


def _print_row(values: tuple[Any, ...]) -> None:
    print(f"{values[0]:22}" + "".join(f"{value:>11}" for value in values[1:]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
