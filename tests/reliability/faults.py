"""Each call of a run that opens, writes, flushes, renames, maps, reads or removes fails once.

A run that says that it succeeded must have its results. One that says that it failed must name the
file and the reason. In either case what was there before is there or was replaced as a whole, and
the next run, in the same process, completes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.reliability.crashes import Figures, Recording, difference_of, problem_of_next
from tests.reliability.operations import KINDS, Fault, Recorder
from tests.reliability.processes import Ended, Output, in_process
from tests.reliability.scenarios import Scenario, write_tree

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


def check_faults(scenario: Scenario, recording: Recording, every: int, log: Path) -> Figures:
    """Let the calls of a run fail, one per run.

    Args:
        scenario: The scenario, whose inputs are there.
        recording: Its unbroken run.
        every: From how many failures one is chosen.
        log: A file for what is printed.
    """
    faults = _faults(scenario, recording, log)[::every]
    figures = Figures(faults=len(faults))
    while faults:

        def run_each(output: Output, left: Sequence[Fault] = tuple(faults)) -> Iterator[str | None]:
            for fault in left:
                yield _problem(scenario, recording, fault, output)

        ended = in_process(run_each, log)
        problems = ended.results
        if ended.signal:
            fault = faults[len(problems)]
            problems.append(_problem_of_ended(scenario, recording, fault, ended, log))
        for fault, problem in zip(faults, problems, strict=False):
            if problem is not None:
                figures.findings.append(f"{fault}: {problem}")
        del faults[: len(problems)]
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


def _problem(scenario: Scenario, recording: Recording, fault: Fault, output: Output) -> str | None:
    """What is wrong with a run in which a call fails, or with the next one."""
    write_tree(scenario.folder, recording.before)
    output.clear()
    with Recorder(scenario.folder).failing(fault) as counts:
        try:
            status = scenario.run()
        except BaseException as error:
            return f"raised {error!r}"
    if counts["failed"] == 0:
        return None  # the run took another way
    wrong = _reported(scenario, recording, fault, status, output.read())
    output.clear()
    is_complete = status == scenario.status
    return wrong or problem_of_next(scenario, recording, output, is_complete=is_complete)


def _problem_of_ended(
    scenario: Scenario, recording: Recording, fault: Fault, ended: Ended, log: Path
) -> str | None:
    """What is wrong with a failure that ended the process, or with the next run."""
    if not scenario.may_end_by(ended.signal, fault):
        return f"the process ended by signal {ended.signal}: {ended.printed[-500:].strip()}"

    def run_next(output: Output) -> Iterator[str | None]:
        yield problem_of_next(scenario, recording, output, is_complete=False)

    problem: str | None = in_process(run_next, log).results[0]
    return problem


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
