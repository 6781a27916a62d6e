"""The requests of a batcher, and the queues in which they wait."""

from __future__ import annotations

import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import CnclipError, Where
from ...pipelines.stream import MAX_CHARACTERS
from ...preprocessors.inputs import InputImage, Preprocessed

Kind = Literal["text", "img"]
Priority = Literal["interactive", "bulk"]
# Of preparing: images of URLs are fetched first.
Stage = Literal["fetch", "prepare"]
STAGES: tuple[Stage, ...] = ("fetch", "prepare")
KINDS: tuple[Kind, ...] = ("text", "img")
PRIORITIES: tuple[Priority, ...] = ("interactive", "bulk")
# While both wait, one batch of bulk requests follows this many of interactive ones.
WEIGHT = 4
# For the objects that belong to an item and a request.
_ITEM_BYTES = 1024
_REQUEST_BYTES = 4096


@dataclass(frozen=True)
class Embedded:
    """The result of a request.

    Attributes:
        vectors: float32 [n, d], a row of unit length for each item, in order; NaN for an item that
            failed.
        errors: For each item its error, or None.
        tokens: int64 [n]: the ids of each text before it is cut to the model's context length,
            [CLS] and [SEP] included; 0 for images.
    """

    vectors: NDArray[np.float32]
    errors: list[CnclipError | None]
    tokens: NDArray[np.int64]


class Item:
    """An image or a text of a request.

    Attributes:
        request: The request.
        index: The item's position in it.
        kind: 'text' or 'img'.
        value: A text; or an image, and its tensor when it is prepared.
        tokens: The columns that a prepared text needs.
        ready_at: The time when the item was prepared, or None.
        is_settled: Whether it has a row or an error.
        content: The bytes of an image that was fetched from a URL.
        place: The stage of preparing among whose images it counts, or None.
    """

    __slots__ = (
        "content",
        "index",
        "is_settled",
        "kind",
        "place",
        "ready_at",
        "request",
        "tokens",
        "value",
    )

    def __init__(self, request: Request, index: int, value: InputImage | str) -> None:
        self.request, self.index, self.value = request, index, value
        self.kind: Kind = "text" if isinstance(value, str) else "img"
        self.tokens = 0
        self.ready_at: float | None = None
        self.is_settled = False
        self.content: bytes | None = None
        self.place: Stage | None = None

    @property
    def is_needed(self) -> bool:
        """Whether the request waits for this item."""
        request = self.request
        if self.is_settled or request.is_closed:
            return False
        first = request.first_bad
        # A request that will fail waits only for earlier items that may be bad as well.
        return first is None or (self.index < first and self.ready_at is None)


class Request:
    """One call of `Batcher.submit`: its items, and what has become of them.

    Everything but the future is guarded by the batcher's lock.

    Attributes:
        future: Gets the result.
        items: The items that were not bad from the beginning.
        priority: The queue in which they wait.
        deadline: When the request expires, or None.
        strict: Whether the first bad item fails the request.
        unprepared: Images, and runs of texts, that wait for a stage of preparing.
        ready: Prepared items that wait for the model, by kind.
        unsettled: Items without a row or an error, by kind.
        first_bad: In a strict request the least index of a bad item, or None.
        bytes: The memory that is counted for the request.
        is_closed: Whether its outcome is certain; nothing is computed for it any more.
        outcome: What the future gets.
    """

    def __init__(
        self,
        values: Sequence[InputImage | str | CnclipError],
        name_of: Callable[[int], str],
        width: int,
        *,
        strict: bool,
    ) -> None:
        count = len(values)
        self.future: Future[Embedded] = Future()
        self.name_of = name_of
        self.priority: Priority = "interactive"
        self.deadline: float | None = None
        self.strict = strict
        self.result = Embedded(
            np.empty((count, width), np.float32), [None] * count, np.zeros(count, np.int64)
        )
        self.outcome: Embedded | CnclipError = self.result
        self.unprepared: dict[Stage, deque[Item | list[Item]]] = {one: deque() for one in STAGES}
        self.ready: dict[Kind, deque[Item]] = {kind: deque() for kind in KINDS}
        self.unsettled: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        self.first_bad: int | None = None
        self.is_closed = False
        self.items: list[Item] = []
        self.bytes = _REQUEST_BYTES + count * (_ITEM_BYTES + 4 * width)
        for index, value in enumerate(values):
            if isinstance(value, CnclipError):
                self.fail_item(index, value)
                continue
            item = Item(self, index, value)
            self.items.append(item)
            self.unsettled[item.kind] += 1
            self.bytes += bytes_of(value if isinstance(value, str) else value.image)

    def fail_item(self, index: int, error: CnclipError) -> None:
        """Note an item's error."""
        self.result.vectors[index] = np.nan
        self.result.errors[index] = bare(error.at(Where(self.name_of(index), index=index)))
        if self.strict and (self.first_bad is None or index < self.first_bad):
            self.first_bad = index

    @property
    def is_complete(self) -> bool:
        """Whether no item is needed any more."""
        if self.first_bad is None:
            return not any(self.unsettled.values())
        return not any(item.is_needed for item in self.items)


def bytes_of(value: Any) -> int:
    """The memory of an item as the caller passed it."""
    if isinstance(value, Image.Image):
        return value.width * value.height * len(value.getbands())
    if isinstance(value, Preprocessed):
        return value.tensor.nbytes
    if isinstance(value, np.ndarray | memoryview):
        return value.nbytes
    return sys.getsizeof(value)


def bare(error: CnclipError) -> CnclipError:
    """The error without the tracebacks of it and of its causes, which keep inputs in memory."""
    one: BaseException | None = error
    seen = set()
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        one.__traceback__ = None
        one = one.__cause__ or one.__context__
    return error


class Queue:
    """Requests that wait for one kind of work, and take turns.

    Args:
        items_of: A request's waiting items.
    """

    def __init__(self, items_of: Callable[[Request], deque[Any]]) -> None:
        self._items_of = items_of
        self._requests: OrderedDict[Request, None] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._requests)

    def add(self, request: Request) -> None:
        """Put a request at the end, unless it waits already."""
        self._requests.setdefault(request)

    def remove(self, request: Request) -> None:
        """Remove a request if it waits."""
        self._requests.pop(request, None)

    def take(self, now: float, fits: Callable[[Any], bool]) -> list[Any]:
        """Take items from one request after the other, as long as they fit.

        A request from which some were taken goes to the end of the queue, so that a large one does
        not hold the others. Expired requests are passed over.
        """
        taken: list[Any] = []
        while self._requests:
            request = next(iter(self._requests))
            items, before = self._items_of(request), len(taken)
            if request.deadline is None or now < request.deadline:
                while items and fits(items[0]):
                    taken.append(items.popleft())
                if items:
                    if len(taken) > before:
                        self._requests.move_to_end(request)
                    break
            del self._requests[request]
        return taken


class Turns:
    """Which priority has its turn: while both wait, bulk requests get one turn in WEIGHT + 1."""

    def __init__(self) -> None:
        self._passed = 0

    def order(self) -> tuple[Priority, Priority]:
        """The priorities, in the order in which to look for work."""
        return ("bulk", "interactive") if self._passed >= WEIGHT else ("interactive", "bulk")

    def took(self, priority: Priority, *, bulk_waits: bool) -> None:
        """Note whose work was taken."""
        self._passed = self._passed + 1 if priority == "interactive" and bulk_waits else 0


@dataclass(eq=False)
class Batch:
    """Items of one kind that go through the model together."""

    kind: Kind
    items: list[Item]


class Limit:
    """Decides which items still fit in a batch: the first one always does.

    Args:
        max_items: Items of a batch.
        max_tokens: Tokens of its texts, which the model pads to the longest.
    """

    def __init__(self, max_items: int, max_tokens: int) -> None:
        self._max_items, self._max_tokens = max_items, max_tokens
        self._items = self._longest = self._characters = 0

    def __call__(self, item: Item) -> bool:
        """Whether the next item fits."""
        self._items += 1
        self._longest = max(self._longest, item.tokens)
        self._characters += len(item.value) if isinstance(item.value, str) else 0
        fits = (
            self._items <= self._max_items
            and self._items * self._longest <= self._max_tokens
            and self._characters <= MAX_CHARACTERS
        )
        return fits or self._items == 1


def first_only() -> Callable[[object], bool]:
    """A limit of one job."""
    answers = iter((True,))
    return lambda _: next(answers, False)
