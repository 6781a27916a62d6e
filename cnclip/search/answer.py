"""`Answer`: the results of one query."""

from __future__ import annotations

from dataclasses import dataclass

from .hits import Hit
from .page import notebook_html


@dataclass(frozen=True)
class Answer:
    """The results of one query. Notebooks display it with thumbnails.

    Attributes:
        hits: The results, best first.
        suggested: The suggested threshold: hits with a lower score mean little. None if no
            threshold is known for this kind of query.
    """

    hits: list[Hit]
    suggested: float | None

    def __repr__(self) -> str:
        """One line, however many hits there are."""
        if not self.hits:
            return "Answer(no results)"
        best = self.hits[0]
        shown = best.name if best.text is None else best.text
        summary = f"{len(self.hits)} hits, best {best.score:.3f} {shown!r:.200}"
        return f"Answer({summary}, suggested={self.suggested})"

    def _repr_html_(self) -> str:
        return notebook_html(self.hits, self.suggested)
