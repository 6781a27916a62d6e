"""What is wrong with single rows of a data set."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import DatasetError


@dataclass(frozen=True)
class Problem:
    """A row that could not be used as it is.

    Attributes:
        where: The file and its line, `valid_texts.jsonl:12`, or the image's path.
        what: What is wrong.
        skipped: Whether the row was left out; else it was used in spite of it.
    """

    where: str
    what: str
    skipped: bool = True

    def __str__(self) -> str:
        shown = f"{self.where}: {self.what}{'' if self.skipped else ' (used nonetheless)'}"
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)


@dataclass
class Problems:
    """The problems of a data set in the order in which they were found, each named once.

    Attributes:
        strict: Raise the first instead.
        found: Those found so far.
    """

    strict: bool = False
    found: list[Problem] = field(default_factory=list)
    _named: set[tuple[str, str]] = field(default_factory=set)

    def add(self, where: str, what: str, *, skipped: bool = True) -> None:
        """Note a problem.

        Raises:
            DatasetError: `strict` is set.
        """
        problem = Problem(where, what, skipped)
        if self.strict:
            raise DatasetError(str(problem))
        if (where, what) not in self._named:
            self._named.add((where, what))
            self.found.append(problem)

    def add_all(self, others: Problems) -> None:
        """Note all that another collection has.

        Raises:
            DatasetError: `strict` is set, and there are any.
        """
        for problem in others.found:
            self.add(problem.where, problem.what, skipped=problem.skipped)

    @property
    def skipped(self) -> int:
        """How many rows were left out."""
        return sum(problem.skipped for problem in self.found)
