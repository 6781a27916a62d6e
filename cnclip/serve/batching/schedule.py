"""What a batcher's threads do next: the requests in progress, and their queues.

Nothing here waits or computes. The methods of `Schedule` are called with the batcher's lock.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from copy import deepcopy

import numpy as np
from numpy.typing import NDArray

from ...errors import BusyError, CnclipError, DeadlineError, InvalidInputError, ModelRunError
from ...pipelines.model import EmbeddingModel
from ...pipelines.stream import MAX_TEXTS
from .counters import Counters
from .options import BatchOptions
from .queues import (
    KINDS,
    PRIORITIES,
    STAGES,
    Batch,
    Embedded,
    Item,
    Kind,
    Limit,
    Queue,
    Request,
    Stage,
    Turns,
    first_only,
)

# Threads that fetch images from URLs.
MAX_FETCHES = 32
# A batch of texts on a CPU. Larger ones gain little, and a request waits for the one in progress.
_CPU_TOKENS = 512
# How much the last batch counts in the mean time of an item.
_NEWEST = 0.2
_MIN_RETRY_AFTER, _MAX_RETRY_AFTER = 0.1, 600.0  # seconds


def _unprepared_items(stage: Stage) -> Callable[[Request], deque[Item | list[Item]]]:
    return lambda request: request.unprepared[stage]


def _ready_items(kind: Kind) -> Callable[[Request], deque[Item]]:
    return lambda request: request.ready[kind]


class Schedule:
    """The requests in progress, their queues, and the counters.

    Attributes:
        counters: See `Counters`.
        requests: Those in progress, by their futures.
        done: Closed requests whose futures have not got their outcome yet.
        batch_images: Images of a batch, at most.
        to_prepare: Is notified when there is something to prepare, for each stage.
        to_run: Is notified when there is something for the model.
        to_retry: Is notified when an item of a batch that hung is to be repeated.
        empty: Is notified when no request is in progress any more.
    """

    def __init__(
        self, model: EmbeddingModel, options: BatchOptions, threads: int, lock: threading.Lock
    ) -> None:
        on_gpu = model.device != "cpu"
        self._options, self._threads = options, threads
        self._batch_tokens = options.batch_tokens or (model.text_tokens if on_gpu else _CPU_TOKENS)
        self.batch_images = min(options.batch_images or model.image_batch, model.max_image_batch)
        # Images that are being prepared, or are prepared and wait for the next step.
        self._max_places = {"fetch": MAX_FETCHES // 2, "prepare": 2 * self.batch_images + threads}
        self._places = {(one, stage): 0 for one in PRIORITIES for stage in STAGES}
        self.to_prepare = {stage: threading.Condition(lock) for stage in STAGES}
        self.to_run = threading.Condition(lock)
        self.to_retry = threading.Condition(lock)
        self.empty = threading.Condition(lock)
        self.requests: dict[Future[Embedded], Request] = {}
        self.done: deque[Request] = deque()
        self.counters = Counters()
        self._bytes = 0
        self._waiting = dict.fromkeys(KINDS, 0)
        self._means = {"text": 0.0, "img": 0.0, "prepare": 0.0}  # seconds per item
        self._unprepared = {
            (one, stage): Queue(_unprepared_items(stage)) for one in PRIORITIES for stage in STAGES
        }
        self._ready = {
            (one, kind): Queue(_ready_items(kind)) for one in PRIORITIES for kind in KINDS
        }
        self._prepare_turns = {stage: Turns() for stage in STAGES}
        self._run_turns = Turns()
        self._last_kind: Kind = "img"
        self._parts: deque[Batch] = deque()  # of batches that failed
        self._suspects: deque[Batch] = deque()  # the items of batches that hung
        self._running: set[Batch] = set()
        # The time of the last completed batch, or from which the model has had work.
        self._no_success_since = 0.0

    # Requests

    def admit(self, request: Request) -> None:
        """Accept a request, or raise an error.

        Raises:
            BusyError: its memory would exceed the limit together with that of others.
            InvalidInputError: its memory exceeds the limit.
        """
        limit = self._options.max_bytes
        if request.bytes > limit:
            self.counters.refused["large"] += 1
            raise InvalidInputError(
                f"a request of {request.bytes} bytes exceeds max_bytes, {limit}: send fewer items "
                "at a time"
            )
        too_many = self._bytes + request.bytes - limit
        if too_many > 0:
            self.counters.refused["busy"] += 1
            seconds = self._seconds_of_work() * too_many / self._bytes
            seconds = min(max(seconds, _MIN_RETRY_AFTER), _MAX_RETRY_AFTER)
            raise BusyError(
                f"the requests in progress use {self._bytes} of {limit} bytes: try again in "
                f"{seconds:.1f} seconds",
                retry_after=seconds,
            )
        self.requests[request.future] = request
        self._bytes += request.bytes
        self.counters.items["failed"] += sum(error is not None for error in request.result.errors)
        for kind in KINDS:
            self._waiting[kind] += request.unsettled[kind]

    def add(self, request: Request, ready: list[Item]) -> None:
        """Put the items of an accepted request into the queues."""
        if request.is_complete:
            self._finish(request, request.result, "embedded")
            return
        for stage in STAGES:
            self._add_unprepared(request, stage)
        if ready:
            self.prepared(ready)

    def forget(self, future: Future[Embedded]) -> None:
        """Drop the request of a cancelled future."""
        request = self.requests.get(future)
        if request is not None:
            self._finish(request, request.result, "cancelled")

    def fail(self, request: Request, error: CnclipError, outcome: str) -> None:
        """End a request with an error."""
        self._finish(request, error, outcome)

    def expire(self, now: float) -> None:
        """Fail the requests whose time is over."""
        expired = [
            one for one in self.requests.values() if one.deadline is not None and one.deadline < now
        ]
        for request in expired:
            error = DeadlineError("the request was not embedded within its time")
            self._finish(request, error, "expired")

    def _finish(self, request: Request, outcome: Embedded | CnclipError, name: str) -> None:
        """Close a request: nothing of it is computed any more."""
        first = request.first_bad
        if first is not None and outcome is request.result:
            outcome = request.result.errors[first] or outcome
            name = "failed" if name == "embedded" else name
        request.is_closed, request.outcome = True, outcome
        self.counters.requests[name] += 1
        del self.requests[request.future]
        self._bytes -= request.bytes
        for kind in KINDS:
            self._waiting[kind] -= request.unsettled[kind]
            request.ready[kind].clear()
            self._ready[request.priority, kind].remove(request)
        for stage in STAGES:
            request.unprepared[stage].clear()
            self._unprepared[request.priority, stage].remove(request)
        for item in request.items:
            self.free_place(item)
        request.items = []
        self.done.append(request)
        if not self.requests:
            self.empty.notify_all()

    # Preparing

    def take_preparation(self, stage: Stage) -> Item | list[Item] | None:
        """The next image, or texts of one request, to fetch or to prepare."""
        now, turns = time.monotonic(), self._prepare_turns[stage]
        for priority in turns.order():
            if self._places[priority, stage] >= self._max_places[stage]:
                continue
            taken: list[Item | list[Item]]
            taken = self._unprepared[priority, stage].take(now, first_only())
            if not taken:
                continue
            job = taken[0]
            if isinstance(job, Item):
                self.free_place(job)
                job.place = stage
                self._places[priority, stage] += 1
            turns.took(priority, bulk_waits=bool(self._unprepared["bulk", stage]))
            if any(self._unprepared[one, stage] for one in PRIORITIES):
                self.to_prepare[stage].notify()
            return job
        return None

    def fetched(self, item: Item) -> None:
        """Put an image whose content was fetched into the queue for decoding."""
        request = item.request
        if not item.is_needed:
            self.prepared([item])
            return
        size = len(item.content or b"")
        request.bytes += size
        self._bytes += size
        request.unprepared["prepare"].append(item)
        self._add_unprepared(request, "prepare")

    def prepared(self, items: list[Item]) -> None:
        """Put prepared items into the queues for the model."""
        now = time.monotonic()
        if not self._has_work():
            self._no_success_since = now
        for item in items:
            request = item.request
            item.ready_at = now
            if item.is_needed:
                request.ready[item.kind].append(item)
                self._ready[request.priority, item.kind].add(request)
                continue
            self.free_place(item)
            if not request.is_closed and request.is_complete:
                self._finish(request, request.result, "embedded")
        if self._has_batch():
            self.to_run.notify()

    def prepare_took(self, seconds: float) -> None:
        """Count the time in which an image was prepared."""
        self.counters.prepare_seconds.add(seconds)
        self._average("prepare", seconds / self._threads)

    def free_place(self, item: Item) -> None:
        """The item no longer counts among those of its stage of preparing."""
        if stage := item.place:
            item.place = None
            self._places[item.request.priority, stage] -= 1
            self.to_prepare[stage].notify()

    def _add_unprepared(self, request: Request, stage: Stage) -> None:
        if request.unprepared[stage]:
            self._unprepared[request.priority, stage].add(request)
            self.to_prepare[stage].notify()

    # The model

    def take_batch(self) -> Batch | None:
        """The items that go through the model next."""
        while self._parts:
            if batch := self._begun(self._parts.popleft()):
                return batch
        now = time.monotonic()
        for priority in self._run_turns.order():
            first: Kind = "text" if self._last_kind == "img" else "img"
            for kind in (first, self._last_kind):
                limit = Limit(
                    MAX_TEXTS if kind == "text" else self.batch_images, self._batch_tokens
                )
                items: list[Item] = self._ready[priority, kind].take(now, limit)
                if not items:
                    continue
                for item in items:
                    self.free_place(item)
                    self.counters.queue_seconds[priority].add(now - (item.ready_at or now))
                self._last_kind = kind
                bulk_waits = any(self._ready["bulk", one] for one in KINDS)
                self._run_turns.took(priority, bulk_waits=bulk_waits)
                if self._has_batch():
                    self.to_run.notify()
                return self._begun(Batch(kind, items))
        return None

    def take_suspect(self) -> Batch | None:
        """An item of a batch that hung, alone."""
        while self._suspects:
            if batch := self._begun(self._suspects.popleft()):
                return batch
        return None

    def _begun(self, batch: Batch) -> Batch | None:
        batch = Batch(batch.kind, [item for item in batch.items if item.is_needed])
        if not batch.items:
            return None
        self._running.add(batch)
        self.counters.batch_sizes[batch.kind].add(len(batch.items))
        return batch

    def succeeded(
        self,
        batch: Batch,
        vectors: NDArray[np.float32],
        errors: Sequence[CnclipError | None],
        seconds: float,
    ) -> None:
        """Take the rows of a batch."""
        self._running.discard(batch)
        self._no_success_since = time.monotonic()
        self.counters.model_seconds[batch.kind].add(seconds)
        self._average(batch.kind, seconds / len(batch.items))
        for item, row, error in zip(batch.items, vectors, errors, strict=True):
            self.settle(item, row if error is None else error)

    def failed(self, batch: Batch, error: CnclipError) -> None:
        """Repeat a batch in halves, or fail its only item."""
        self.counters.failed_batches += 1
        self._running.discard(batch)
        items = batch.items
        if len(items) == 1:
            self.settle(items[0], error)
        else:
            middle = len(items) // 2
            self._parts.extend(Batch(batch.kind, half) for half in (items[:middle], items[middle:]))
            self.to_run.notify()

    def hung(self, batch: Batch) -> None:
        """Repeat the items of a batch one by one on another thread, or fail its only item."""
        self.counters.hung_batches += 1
        self._running.discard(batch)
        items = batch.items
        if len(items) == 1:
            limit = self._options.run_timeout
            error = ModelRunError(f"the model did not end within {limit:g} seconds")
            self.settle(items[0], error)
        else:
            self._suspects.extend(Batch(batch.kind, [item]) for item in items)
            self.to_retry.notify()

    def settle(self, item: Item, outcome: NDArray[np.float32] | CnclipError) -> None:
        """Give an item its row or its error, if its request still waits for it."""
        self.free_place(item)
        if not item.is_needed:
            return
        request = item.request
        item.is_settled = True
        request.unsettled[item.kind] -= 1
        self._waiting[item.kind] -= 1
        if isinstance(outcome, CnclipError):
            request.fail_item(item.index, outcome)
            self.counters.items["failed"] += 1
            if request.strict:
                self._keep_needed(request)
        else:
            request.result.vectors[item.index] = outcome
            self.counters.items[item.kind] += 1
        if request.is_complete:
            self._finish(request, request.result, "embedded")

    def _keep_needed(self, request: Request) -> None:
        """Drop what a request that will fail does not wait for."""
        for kind in KINDS:
            for item in request.ready[kind]:
                self.free_place(item)
            request.ready[kind].clear()
            self._ready[request.priority, kind].remove(request)
        for stage, jobs in request.unprepared.items():
            kept = [job for job in jobs if (job if isinstance(job, Item) else job[0]).is_needed]
            jobs.clear()
            jobs.extend(kept)
            if not kept:
                self._unprepared[request.priority, stage].remove(request)

    # The state

    def has_succeeded(self, now: float) -> bool:
        """Whether the model has completed a batch within its time, if it has work."""
        late = now - self._no_success_since > self._options.run_timeout
        return not (late and self._has_work())

    def snapshot(self) -> Counters:
        """A copy of the counters, with the present state."""
        counters = deepcopy(self.counters)
        counters.bytes_in_flight = self._bytes
        counters.requests_in_flight = len(self.requests)
        counters.waiting = {str(kind): count for kind, count in self._waiting.items()}
        return counters

    def _has_batch(self) -> bool:
        return bool(self._parts) or any(self._ready.values())

    def _has_work(self) -> bool:
        return bool(self._running or self._suspects) or self._has_batch()

    def _average(self, name: str, seconds: float) -> None:
        mean = self._means[name]
        self._means[name] += (_NEWEST if mean else 1.0) * (seconds - mean)

    def _seconds_of_work(self) -> float:
        """How long the items that wait will take, by the mean of the last ones."""
        means = self._means
        # Images are prepared while others go through the model: the slower of both counts.
        image = max(means["img"], means["prepare"])
        return self._waiting["text"] * means["text"] + self._waiting["img"] * image
