"""The names of splits with slices, as the library `datasets` writes them.

`train`, `train[:200]`, `train[10%:20%]`, `train[-100:]`, `train[:10%]+validation[:10%]`;
`train[:33%](pct1_dropremainder)` makes parts of equal sizes.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .._text import counted
from ..errors import InvalidInputError

_PART = re.compile(
    r"\s*(?P<split>[\w.-]+(?:/[\w.-]+)?)"
    r"(?:\[\s*(?P<start>-?\d[\d_]*)?(?P<start_unit>%)?\s*:"
    r"\s*(?P<end>-?\d[\d_]*)?(?P<end_unit>%)?\s*\])?"
    r"(?:\((?P<rounding>closest|pct1_dropremainder)\))?\s*",
    re.ASCII,
)
_DROP = "pct1_dropremainder"


class Bound(NamedTuple):
    """An end of a slice: a number of rows, or per cent of them; None for the end of the split."""

    value: int | None
    percent: bool

    def rows(self, count: int, default: int, drop: bool) -> int:
        """The number of rows before the bound, of `count`; it may be out of range."""
        if self.value is None:
            return default
        value = self.value
        if self.percent:
            value = value * (count // 100) if drop else round(value * count / 100)
        return count + value if self.value < 0 else value


class SplitSlice(NamedTuple):
    """A part of a split."""

    text: str
    split: str
    start: Bound
    end: Bound
    drop: bool  # the remainder of per cents

    def rows(self, count: int) -> tuple[range, str | None]:
        """The numbers of the rows, and a remark where the slice ends after the split.

        Args:
            count: The number of rows of the split.
        """
        start = self.start.rows(count, 0, self.drop)
        end = self.end.rows(count, count, self.drop)
        found = range(max(0, min(start, count)), max(0, min(end, count)))
        if len(found) == 0:
            reason = f"{self.text}: no rows, since the split has {counted(count, 'rows')}"
            raise InvalidInputError(reason, item="split")
        if start < 0 or end > count:
            return found, f"{self.text}: the split has only {counted(count, 'rows')}"
        return found, None


def parse_splits(text: str) -> list[SplitSlice]:
    """The parts that a split's name asks for, joined by `+`."""
    found = []
    for part in text.split("+"):
        match = _PART.fullmatch(part)
        if match is None:
            reason = f"expected a name such as train, train[:200] or train[:10%], got {text!r:.100}"
            raise InvalidInputError(reason, item="split")
        start = _bound(match["start"], match["start_unit"], text)
        end = _bound(match["end"], match["end_unit"], text)
        drop = match["rounding"] == _DROP
        found.append(SplitSlice(part.strip(), match["split"], start, end, drop))
    return found


def _bound(value: str | None, unit: str | None, text: str) -> Bound:
    if value is None:
        if unit is not None:
            reason = f"expected a number before % in {text!r:.100}"
            raise InvalidInputError(reason, item="split")
        return Bound(None, False)
    number = int(value)
    if unit is not None and not -100 <= number <= 100:
        reason = f"{text}: expected -100% to 100%, got {number}%"
        raise InvalidInputError(reason, item="split")
    return Bound(number, unit is not None)
