"""Rows of a data set that cannot be used, or only with a remark."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

from .._text import printable
from ..errors import DatasetError, Where

T = TypeVar("T")


class ProblemKind(Enum):
    """What is wrong with a row."""

    DAMAGED = "a file, a part of it or a line cannot be parsed"
    NOT_UTF8 = "a text is not UTF-8"
    BAD_VALUE = "a value is empty, or has a wrong type"
    DUPLICATE = "an id or a member occurs twice"
    NO_IMAGE = "there is no image"
    NO_TEXT = "there is no text"
    UNKNOWN_ID = "the row refers to an image or class that does not exist"
    UNREADABLE_IMAGE = "the image cannot be read or decoded"
    FORMAT = "an unusual format, which is read nonetheless"


@dataclass(frozen=True)
class Problem:
    """A row that could not be used as it is."""

    kind: ProblemKind
    where: Where
    reason: str
    skipped: bool = True  # the row was left out; otherwise it was used

    def __str__(self) -> str:
        used = "" if self.skipped else " (used nonetheless)"
        return f"{self.where}: {printable(self.reason)}{used}"


@dataclass
class Problems:
    """The problems of a data set in the order in which they were found, each once.

    With `strict`, the first is raised instead.
    """

    strict: bool = False
    found: list[Problem] = field(default_factory=list)
    _known: set[Problem] = field(default_factory=set)

    def add(self, kind: ProblemKind, where: Where, reason: str, *, skipped: bool = True) -> None:
        """Add a problem.

        Raises:
            DatasetError: `strict` is set.
        """
        problem = Problem(kind, where, reason, skipped)
        if self.strict:
            raise DatasetError(reason if skipped else f"{reason} (used nonetheless)", where)
        if problem not in self._known:
            self._known.add(problem)
            self.found.append(problem)

    def add_all(self, others: Problems) -> None:
        """Add all that another collection has.

        Raises:
            DatasetError: `strict` is set, and there are any.
        """
        for problem in others.found:
            self.add(problem.kind, problem.where, problem.reason, skipped=problem.skipped)

    def drain(self) -> list[Problem]:
        """Return the problems and forget them."""
        found, self.found, self._known = self.found, [], set()
        return found

    @property
    def skipped(self) -> int:
        """How many rows were left out."""
        return sum(problem.skipped for problem in self.found)

    @property
    def hint(self) -> str:
        """The first problem, to append to a message; empty if there are none."""
        return f": {self.found[0]}" if self.found else ""


def with_problems(read: Callable[[Problems], Iterator[T]]) -> Iterator[T | Problem]:
    """The rows that a reader yields, each after the problems of the rows before it."""
    problems = Problems()
    for row in read(problems):
        if problems.found:
            yield from problems.drain()
        yield row
    yield from problems.drain()
