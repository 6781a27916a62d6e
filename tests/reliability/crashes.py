"""Crashes at every moment of a run: a following run must end with the same bytes.

A run is recorded. Each state in which a crash can leave its folder is written to the folder, and
the next run starts from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnclip.progress import progress_lines
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
    faults: int = 0
    next_runs: int = 0
    findings: list[str] = field(default_factory=list)

    def row(self) -> tuple[int, ...]:
        """The numbers, as they are printed."""
        numbers = (self.operations, self.states, self.chosen, self.faults, self.next_runs)
        return (*numbers, len(self.findings))

    def add(self, other: Figures) -> None:
        """Add the numbers of another part."""
        for name in ("operations", "states", "chosen", "faults", "next_runs"):
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


def check_crashes(
    scenario: Scenario, recording: Recording, started: Started, every: int, log: Path
) -> Figures:
    """Start the next run from each state in which a crash can leave the folder.

    Args:
        scenario: The scenario, whose inputs are there.
        recording: Its unbroken run.
        started: The states from which a run has started. Those of this function are added.
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

    def replay(output: Output) -> Iterator[tuple[str | None, Start | None]]:
        for description, state in chosen:
            output.clear()
            write_tree(scenario.folder, state)
            is_complete = f"after {len(recording.operations)} of " in description
            problem = problem_of_found(scenario, recording, is_complete=is_complete)
            start = None
            if problem is None and not started.covers(state):
                problem, start = next_run(scenario, recording, state, output)
                started.add(start)
            yield None if problem is None else f"{description}: {problem}", start

    ended = in_process(replay, log, progress_lines(f"{scenario.name}: crashes", len(chosen)))
    for problem, start in ended.results:
        figures.findings += [problem] if problem is not None else []
        if start is not None:
            started.add(start)
            figures.next_runs += 1
    if ended.signal:
        description = chosen[len(ended.results)][0]
        printed = ended.printed[-2000:]
        figures.findings.append(f"{description}: the next run: signal {ended.signal}: {printed}")
    return figures


def problem_of_found(scenario: Scenario, recording: Recording, *, is_complete: bool) -> str | None:
    """What is wrong with what a run has left.

    Args:
        scenario: The scenario.
        recording: Its unbroken run.
        is_complete: The run has ended, and reported success.
    """
    try:
        found = scenario.found()
    except Exception as error:
        return f"what is there is damaged: {error!r}"
    if found not in (recording.found[1:] if is_complete else recording.found):
        return "a reader finds neither what was there before nor the result"
    return None


def next_run(
    scenario: Scenario, recording: Recording, state: State, output: Output
) -> tuple[str | None, Start]:
    """What is wrong with a run that starts from what is in the folder, and what it used of that.

    Args:
        scenario: The scenario.
        recording: Its unbroken run.
        state: What is in the folder.
        output: What this process prints.
    """
    output.clear()
    with Recorder(scenario.folder).recorded() as operations:
        problem = _problem_of_run(scenario, recording, output)
    return problem, Start.of(state, operations, scenario.folder)


def _problem_of_run(scenario: Scenario, recording: Recording, output: Output) -> str | None:
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


@dataclass(frozen=True)
class Start:
    """A state from which a run has started.

    Attributes:
        names: The names in it, and whether each is a directory.
        used: Those whose content the run has read or left in place.
        digest: A digest of their content.
    """

    names: frozenset[tuple[str, bool]]
    used: frozenset[str]
    digest: bytes

    @classmethod
    def of(cls, state: State, operations: list[Operation], folder: Path) -> Start:
        """Of a state, what the run did, and the folder after it."""
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
        return cls(_names(state), kept, _digest(state, kept))


class Started:
    """The states from which a run has started.

    States that differ only in files which the run does not read, and which it removes or replaces,
    have the same end: one run is enough.
    """

    def __init__(self) -> None:
        self._starts: dict[frozenset[tuple[str, bool]], list[Start]] = {}

    def covers(self, state: State) -> bool:
        """Whether the end is known."""
        starts = self._starts.get(_names(state), [])
        return any(_digest(state, start.used) == start.digest for start in starts)

    def add(self, start: Start) -> None:
        """Note a state."""
        self._starts.setdefault(start.names, []).append(start)


def _names(state: State) -> frozenset[tuple[str, bool]]:
    return frozenset((path, content is None) for path, content in state.items())


def _digest(state: State, paths: frozenset[str]) -> bytes:
    return digest_of({path: state[path] for path in paths})
