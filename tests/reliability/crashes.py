"""Crashes at every moment of a run: a following run must end with the same bytes.

A run is recorded. Each state in which a crash can leave its folder is written to the folder, and
the next run starts from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.reliability.disk import Disk, State, crash_states, digest_of
from tests.reliability.operations import Operation, Recorder
from tests.reliability.processes import Output, in_process
from tests.reliability.scenarios import Scenario, read_tree, write_tree


@dataclass
class Recording:
    """An unbroken run.

    Attributes:
        before: The folder before it.
        operations: What it did.
        after: The folder after it.
        results: What must be the same after other runs.
        found: What a reader found before and after it.
    """

    before: State
    operations: list[Operation]
    after: State
    results: State
    found: tuple[Any, Any]


@dataclass
class Figures:
    """The numbers that are printed, and what was wrong."""

    operations: int = 0
    states: int = 0
    chosen: int = 0
    runs: int = 0
    faults: int = 0
    findings: list[str] = field(default_factory=list)

    def row(self) -> tuple[int, ...]:
        """The numbers, as they are printed."""
        numbers = (self.operations, self.states, self.chosen, self.runs, self.faults)
        return (*numbers, len(self.findings))

    def add(self, other: Figures) -> None:
        """Add the numbers of another part."""
        for name in ("operations", "states", "chosen", "runs", "faults"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.findings += other.findings


def record(scenario: Scenario, log: Path) -> Recording:
    """Prepare a scenario and record an unbroken run.

    Raises:
        AssertionError: the recorder missed an operation, or the run failed.
    """

    def prepare_and_run(output: Output) -> Iterator[Recording]:
        for folder in (scenario.folder, scenario.inputs):
            folder.mkdir(parents=True)
        scenario.prepare()
        before, found = read_tree(scenario.folder), scenario.found()
        with Recorder(scenario.folder).recorded() as operations:
            status = scenario.run()
        assert status == scenario.status, f"exit status {status}"
        after, results = read_tree(scenario.folder), scenario.results()
        operations = [operation for operation in operations if operation.letter != "R"]
        yield Recording(before, operations, after, results, (found, scenario.found()))

    recording: Recording = in_process(prepare_and_run, log).results[0]
    disk = Disk(recording.before)
    for operation in recording.operations:
        disk.apply(operation)
    assert disk.content() == recording.after, "the recorder missed an operation"
    return recording


def check_crashes(scenario: Scenario, recording: Recording, every: int, log: Path) -> Figures:
    """Start the next run from each state in which a crash can leave the folder.

    States that differ only in files which the run does not read, and which it removes or replaces,
    have the same end: the first of them is enough.

    Args:
        scenario: The scenario, whose inputs are there.
        recording: Its unbroken run.
        every: From how many distinct states one is chosen.
        log: A file for what is printed.
    """
    figures = Figures(operations=len(recording.operations))
    chosen: list[tuple[str, State]] = []
    for number, found in enumerate(crash_states(recording.before, recording.operations)):
        figures.states += 1
        if number % every == 0:
            chosen.append(found)
    figures.chosen = len(chosen)

    def replay(output: Output) -> Iterator[str | None]:
        checked = _Checked()
        recorder = Recorder(scenario.folder)
        for description, state in chosen:
            if checked.covers(state):
                continue
            output.clear()
            write_tree(scenario.folder, state)
            with recorder.recorded() as operations:
                problem = _problem(scenario, recording, description, output)
            yield None if problem is None else f"{description}: {problem}"
            checked.add(state, operations, scenario.folder)

    ended = in_process(replay, log)
    figures.runs = len(ended.results)
    figures.findings = [problem for problem in ended.results if problem is not None]
    if ended.signal:
        figures.findings.append(f"a next run: signal {ended.signal}: {ended.printed[-2000:]}")
    return figures


def _problem(
    scenario: Scenario, recording: Recording, description: str, output: Output
) -> str | None:
    """What is wrong with a state, or with the run that follows it."""
    is_complete = f"after {len(recording.operations)} of " in description
    return problem_of_next(scenario, recording, output, is_complete=is_complete)


def problem_of_next(
    scenario: Scenario, recording: Recording, output: Output, *, is_complete: bool
) -> str | None:
    """What is wrong with what a run has left, and with the next run.

    Args:
        scenario: The scenario.
        recording: Its unbroken run.
        output: What this process prints.
        is_complete: The run has ended, and reported success.
    """
    try:
        found = scenario.found()
    except Exception as error:
        return f"what is there is damaged: {error!r}"
    if found not in (recording.found[1:] if is_complete else recording.found):
        return "a reader finds neither what was there before nor the result"
    try:
        status = scenario.run_next()
    except BaseException as error:
        return f"the next run raised {error!r}"
    if status != scenario.status:
        return f"the next run ended with status {status}: {output.read()[-500:].strip()}"
    difference = difference_of(scenario.results(), recording.results)
    return None if difference is None else f"after the next run, {difference}"


def difference_of(found: State, wanted: State) -> str | None:
    """The first files that differ."""
    names = sorted(found.keys() | wanted.keys())
    for name in names:
        if name not in wanted:
            return f"{name} is left over"
        if name not in found:
            return f"{name} is missing"
    differing = [name for name in names if found[name] != wanted[name]]
    return f"{', '.join(differing)} differ" if differing else None


class _Checked:
    """The states from which a run has started.

    Two states have the same end if they have the same names, and the same content of all files that
    the run has read or left in place.
    """

    def __init__(self) -> None:
        self._used: dict[frozenset[tuple[str, bool]], list[tuple[frozenset[str], bytes]]] = {}

    def covers(self, state: State) -> bool:
        """Whether the end is known."""
        known = self._used.get(_names(state), [])
        return any(_digest(state, used) == digest for used, digest in known)

    def add(self, state: State, operations: list[Operation], folder: Path) -> None:
        """Note a state and what the run did with it."""
        renamed: list[tuple[str, str]] = []

        def first_name(path: str) -> str:
            for old, new in reversed(renamed):
                if path == new or path.startswith(f"{new}/"):
                    path = old + path[len(new) :]
            return path

        used = set()
        for operation in operations:
            if operation.letter == "R":
                used.add(first_name(operation.path))
            elif operation.letter in "NL":
                renamed.append((operation.path, operation.second))
        used |= {first_name(path) for path in read_tree(folder)}
        kept = frozenset(used & state.keys())
        self._used.setdefault(_names(state), []).append((kept, _digest(state, kept)))


def _names(state: State) -> frozenset[tuple[str, bool]]:
    return frozenset((path, content is None) for path, content in state.items())


def _digest(state: State, paths: frozenset[str]) -> bytes:
    return digest_of({path: state[path] for path in paths})
