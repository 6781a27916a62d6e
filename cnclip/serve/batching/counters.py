"""What a batcher counts: plain numbers, for metrics."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

# Upper bounds of the classes of a Tally.
SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)


@dataclass
class Tally:
    """How often a quantity had which values.

    Attributes:
        bounds: Upper bounds of the classes, ascending.
        counts: Values in each class; the last one is for values above all bounds.
        count: All values.
        total: Their sum.
    """

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    count: int = 0
    total: float = 0.0

    def __post_init__(self) -> None:
        """Begin with empty classes."""
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.count += 1
        self.total += value

    @property
    def mean(self) -> float:
        """The mean of all values, 0 without any."""
        return self.total / self.count if self.count else 0.0


def _seconds() -> Tally:
    return Tally(SECONDS)


def _by_kind(bounds: tuple[float, ...]) -> dict[str, Tally]:
    return {"text": Tally(bounds), "img": Tally(bounds)}


@dataclass
class Counters:
    """Totals since a batcher was made, and its state at one moment.

    Attributes:
        requests: Requests by their outcome: `embedded` (also with failed items), `failed`,
            `cancelled`, `expired`, `closed`.
        refused: Requests that were not accepted, by reason: `busy`, `large`, `closed`.
        items: Embedded items by kind, `text` and `img`, and those that `failed`.
        queue_seconds: From the time when an item is ready for the model until its batch begins, by
            priority, `interactive` and `bulk`.
        prepare_seconds: To open, decode and resize an image.
        tokenize_seconds: To tokenize the texts of a request, or a part of them.
        model_seconds: Of the model for a batch, by kind.
        batch_sizes: Items of a batch, by kind.
        failed_batches: Batches that failed, and were repeated in parts if they had several items.
        hung_batches: Batches that took longer than the limit.
        bytes_in_flight: Memory of the requests in progress, as it is counted for the limit.
        requests_in_flight: Requests in progress.
        waiting: Items that have not been embedded, by kind.
        threads: Threads that are alive.
    """

    requests: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    items: Counter[str] = field(default_factory=Counter)
    queue_seconds: dict[str, Tally] = field(
        default_factory=lambda: {"interactive": _seconds(), "bulk": _seconds()}
    )
    prepare_seconds: Tally = field(default_factory=_seconds)
    tokenize_seconds: Tally = field(default_factory=_seconds)
    model_seconds: dict[str, Tally] = field(default_factory=lambda: _by_kind(SECONDS))
    batch_sizes: dict[str, Tally] = field(default_factory=lambda: _by_kind(SIZES))
    failed_batches: int = 0
    hung_batches: int = 0
    bytes_in_flight: int = 0
    requests_in_flight: int = 0
    waiting: dict[str, int] = field(default_factory=lambda: {"text": 0, "img": 0})
    threads: int = 0
