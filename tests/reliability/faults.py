"""Each call of a run that opens, writes, flushes, renames, maps, reads or removes fails once.

A run that says that it succeeded must have its results. One that says that it failed must name the
file and the reason. In either case what was there before is there or was replaced as a whole, and
the next run, in the same process, completes. It is left out where a run has started from the same
files. What a failure has left in the memory of the process would then show in the runs for the
following failures, which are in the same process; the last has its next run always.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from cnclip.progress import progress_lines
from tests.reliability.crashes import (
    Figures,
    Recording,
    Start,
    Started,
    difference_of,
    next_run,
    problem_of_found,
)
from tests.reliability.operations import KINDS, Fault, Recorder
from tests.reliability.processes import Ended, Output, in_process
from tests.reliability.scenarios import Scenario, read_tree, write_tree

ERRORS = {
    "open": ("ENOSPC", "EIO", "EINTR"),
    "write": ("ENOSPC", "EIO", "EINTR", "short"),
    "fsync": ("ENOSPC", "EIO", "EINTR"),
    "rename": ("ENOSPC", "EIO"),
    "mmap": ("ENOMEM",),
    "read": ("EIO", "EINTR"),
    "unlink": ("EIO",),
}
NEVER = 1 << 40

# What is wrong, and the state from which a next run has started, if one was needed.
_Found = tuple[str | None, Start | None]


def check_faults(
    scenario: Scenario, recording: Recording, started: Started, every: int, log: Path
) -> Figures:
    """Let the calls of a run fail, one per run.

    Args:
        scenario: The scenario, whose inputs are there.
        recording: Its unbroken run.
        started: The states from which a run has started. Those of this function are added.
        every: From how many failures one is chosen.
        log: A file for what is printed.
    """
    faults = _faults(scenario, recording, log)[::every]
    figures = Figures(faults=len(faults))
    advance = progress_lines(f"{scenario.name}: failures", len(faults))
    while faults:

        def run_each(output: Output, left: Sequence[Fault] = tuple(faults)) -> Iterator[_Found]:
            for fault in left:
                found = _found(scenario, recording, started, fault, output, fault == left[-1])
                if found[1] is not None:
                    started.add(found[1])
                yield found

        ended = in_process(run_each, log, advance)
        found = ended.results
        if ended.signal:
            fault = faults[len(found)]
            advance(1)
            found.append(_found_of_ended(scenario, recording, started, fault, ended, log))
        for fault, (problem, start) in zip(faults, found, strict=False):
            if problem is not None:
                figures.findings.append(f"{fault}: {problem}")
            if start is not None:
                started.add(start)
                figures.next_runs += 1
        del faults[: len(found)]
    return figures


def _faults(scenario: Scenario, recording: Recording, log: Path) -> list[Fault]:
    """A failure of each call of an unbroken run, in each way."""

    def count(_: Output) -> Iterator[dict[str, int]]:
        write_tree(scenario.folder, recording.before)
        with Recorder(scenario.folder).failing(Fault("open", NEVER, "EIO")) as counts:
            scenario.run()
        yield counts

    counts: dict[str, int] = in_process(count, log).results[0]
    return [
        Fault(kind, number, error)
        for kind in KINDS
        for number in range(1, counts[kind] + 1)
        for error in ERRORS[kind]
    ]


def _found(
    scenario: Scenario,
    recording: Recording,
    started: Started,
    fault: Fault,
    output: Output,
    is_last: bool,
) -> _Found:
    """What is wrong with a run in which a call fails, or with the next one, which may be known."""
    write_tree(scenario.folder, recording.before)
    output.clear()
    with Recorder(scenario.folder).failing(fault) as counts:
        try:
            status = scenario.run()
        except BaseException as error:
            return f"raised {error!r}", None
    if counts["failed"] == 0:
        return None, None  # the run took another way
    wrong = _reported(scenario, recording, fault, status, output.read())
    wrong = wrong or problem_of_found(scenario, recording, is_complete=status == scenario.status)
    state = read_tree(scenario.folder)
    if wrong is not None or (started.covers(state) and not is_last):
        return wrong, None
    return next_run(scenario, recording, state, output)


def _found_of_ended(
    scenario: Scenario,
    recording: Recording,
    started: Started,
    fault: Fault,
    ended: Ended,
    log: Path,
) -> _Found:
    """What is wrong with a failure that ended the process, or with the next run."""
    if not scenario.may_end_by(ended.signal, fault):
        return f"the process ended by signal {ended.signal}: {ended.printed[-500:].strip()}", None

    def run_next(output: Output) -> Iterator[_Found]:
        wrong = problem_of_found(scenario, recording, is_complete=False)
        state = read_tree(scenario.folder)
        if wrong is not None or started.covers(state):
            yield wrong, None
        else:
            yield next_run(scenario, recording, state, output)

    found: _Found = in_process(run_next, log).results[0]
    return found


def _reported(
    scenario: Scenario, recording: Recording, fault: Fault, status: int, printed: str
) -> str | None:
    """What is wrong with what a run reported."""
    if "Traceback" in printed or "Exception ignored" in printed:
        return f"a traceback: {printed[-1000:].strip()}"
    if status == scenario.status:
        if not scenario.needs_folder:
            return None
        difference = difference_of(scenario.results(), recording.results)
        return None if difference is None else f"reported as done, but {difference}"
    message = printed.strip().rpartition("\n")[2]
    if status != 2:
        return f"ended with status {status}: {message}"
    reason = os.strerror(getattr(errno, fault.error, 0)).lower()
    if not message.startswith(f"cnclip {scenario.command[0]}: ") or reason not in message.lower():
        return f"does not report {reason!r}: {message}"
    if str(scenario.folder) not in message:
        return f"does not name the file: {message}"
    return None
