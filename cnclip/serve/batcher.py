"""One open model for many callers at a time: their items go through it in common batches.

The way of a request:

    submit        checks the items, counts their bytes, tokenizes short texts
    _prepare      on some threads: opens, decodes and resizes images, tokenizes the other texts
    take_batch    when the model is free: the items that are ready, up to a limit
    _run          on the thread of the model: the rows of a batch
    settle        gives each item its row or its error
    _deliver      when a request needs no further item: its future gets the result

In between, items wait in the queues of a `Schedule`, which one lock guards. The threads are those
of `workers.py`, which replace one that hangs, and one that watches the time.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Literal, Self

from ..errors import (
    ClosedError,
    CnclipError,
    ForkedProcessError,
    ImageError,
    InputTypeError,
    InvalidInputError,
)
from ..outputs import OutputKeys
from ..pipelines.model import as_returned
from ..pipelines.stream import Embedder
from ..preprocessors.inputs import InputImage, mixed_items, split_input
from .compute import Compute, as_error, characters_of
from .counters import Counters
from .options import BatchOptions
from .queues import PRIORITIES, Batch, Embedded, Item, Priority, Request
from .schedule import Schedule
from .workers import Workers

logger = logging.getLogger("cnclip")

# Texts with fewer characters in all are tokenized by the caller's thread.
_INLINE_CHARACTERS = 4096
# Texts that a thread tokenizes at a time.
_TEXTS_AT_ONCE = 256
# Seconds of preparing an image, after which another thread takes the next ones.
_SLOW = 1.0
# Threads that may be slow, or hang, at the same time.
_SLOW_PREPARERS, _HUNG_RUNNERS = 32, 3
# Seconds between two looks at the time, and without requests until it is no longer looked at.
_TICK, _DOZE_AFTER = 0.05, 2.0
# At the end of the interpreter, how long to wait for a batch.
_EXIT_SECONDS = 5.0


class Batcher:
    """Embeds the items of many callers in common batches.

    A batch is what has arrived while the model computed the batch before; an idle model begins at
    once. Small requests pass large ones. A bad item fails nothing but itself, or its request.

    Threads may use one batcher at the same time. It is a context manager, and closes at the end.
    What a future's callbacks do holds the batcher's threads: keep them short.
    """

    def __init__(self, pipeline: Embedder, options: BatchOptions | None = None) -> None:
        """Start the threads.

        Args:
            pipeline: An open pipeline, which may be used otherwise as well.
            options: Limits.
        """
        self._pipeline = pipeline
        self._options = options = options or BatchOptions()
        threads = options.threads or pipeline.preprocessor.num_threads
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._is_closing = self._is_ended = False
        self._schedule = schedule = Schedule(pipeline.model, options, threads, self._lock)
        self._compute = Compute(pipeline, schedule.batch_images)
        self._tick = threading.Condition(self._lock)
        self._is_dozing = False
        self._preparers: Workers[Item | list[Item]] = Workers(
            "cnclip-prepare",
            threads,
            _SLOW_PREPARERS,
            min(_SLOW, options.prepare_timeout),
            schedule.take_preparation,
            self._prepare,
            schedule.to_prepare,
        )
        limit, wait = options.run_timeout, schedule
        under_way = pipeline.model.batches_under_way
        self._runners: Workers[Batch] = Workers(
            "cnclip-run", under_way, _HUNG_RUNNERS, limit, wait.take_batch, self._run, wait.to_run
        )
        # Items of a batch that hung are repeated on another thread: the others need not wait.
        self._retriers: Workers[Batch] = Workers(
            "cnclip-retry", 1, _HUNG_RUNNERS, limit, wait.take_suspect, self._run, wait.to_retry
        )
        self._all = (self._preparers, self._runners, self._retriers)
        self._watcher = threading.Thread(target=self._watch, name="cnclip-watch", daemon=True)
        with self._lock:
            for workers in self._all:
                workers.start()
        self._watcher.start()
        _open.add(self)

    def __enter__(self) -> Self:
        """Return the batcher."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the batcher; after an error without waiting for the requests."""
        self.close(drain=error is None)

    # Callers

    def submit(
        self,
        items: Iterable[Mapping[str, Any] | CnclipError],
        *,
        priority: Priority | None = None,
        timeout: float | None = None,
        on_error: Literal["raise", "item"] = "raise",
    ) -> Future[Embedded]:
        """Begin to embed a mixed list of images and texts.

        Args:
            items: `{'img': image}` with an image as `pipeline.forward` takes it, or
                `{'text': str}`; or a CnclipError for an item that has failed before. Do not change
                images until the future is done.
            priority: 'interactive' or 'bulk'; by default by the number of items. While both wait,
                four batches of five are for interactive requests.
            timeout: Seconds until the request expires; by default `BatchOptions.timeout`.
            on_error: 'raise': the future raises the error of the first bad item, and the others
                need not be embedded. 'item': the error is in `Embedded.errors`.

        Returns:
            The result's future. When it is cancelled, nothing of the request is computed any more.
            In a coroutine: `await asyncio.wrap_future(future)`.
            It raises InputTypeError, InvalidInputError, ImageError, ModelRunError or
            OutOfMemoryError for an item, whose position is `where.index`; DeadlineError if the
            request has expired; ClosedError if the batcher was closed.

        Raises:
            BusyError: the requests in progress use the memory that they may.
            InvalidInputError: the request alone exceeds it; or a wrong option.
            InputTypeError: not a list.
            ClosedError: the batcher is closed. ForkedProcessError: it is the parent process's.
        """
        if on_error not in ("raise", "item"):
            raise InvalidInputError(
                f"expected 'raise' or 'item', got {on_error!r:.40}", item="on_error"
            )
        values = mixed_items(items)
        return self._start(
            values, "items[{}]".format, priority, timeout, strict=on_error == "raise"
        )

    def forward(
        self,
        input: Mapping[str, Any],
        *,
        priority: Priority | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Embed images, texts, or both, as `pipeline.forward` does, together with other callers.

        Args:
            input: As for `pipeline.forward`. An iterator is consumed before the work begins.
            priority: As for `submit`.
            timeout: As for `submit`.

        Returns:
            {'img_embedding': float32 [n, d] or None, 'text_embedding': float32 [n, d] or None}.

        Raises:
            CnclipError: what `submit` and its future raise. Messages name the item as
                `pipeline.forward` does.
        """
        images, texts = split_input(input)
        as_bytes = self._pipeline.model.takes_bytes
        settled = self._pipeline.preprocessor.settled(images or [], as_bytes=as_bytes)
        values: list[InputImage | str] = [*settled]
        count = len(values)
        values += texts or []

        def name_of(index: int) -> str:
            return f"img[{index}]" if index < count else f"text[{index - count}]"

        future = self._start(values, name_of, priority, timeout, strict=True)
        try:
            vectors = future.result().vectors
        except BaseException:  # Ctrl-C as well
            future.cancel()
            raise
        form = self._pipeline.model.return_tensors
        return {
            OutputKeys.IMG_EMBEDDING: as_returned(
                None if images is None else vectors[:count], form
            ),
            OutputKeys.TEXT_EMBEDDING: as_returned(
                None if texts is None else vectors[count:], form
            ),
        }

    @property
    def ready(self) -> bool:
        """Whether requests are accepted and the model completes batches within its time."""
        if os.getpid() != self._pid:
            return False
        with self._lock:
            is_working = self._schedule.has_succeeded(time.monotonic())
            return is_working and not self._is_closing and self._preparers.has_time

    def counters(self) -> Counters:
        """Totals since the start, and the present state."""
        self._check_process()
        with self._lock:
            counters = self._schedule.snapshot()
            counters.threads = sum(len(workers) for workers in self._all) + self._watcher.is_alive()
            return counters

    def close(self, drain: bool = True, timeout: float | None = None) -> None:
        """Accept no more requests, end those in progress, then the threads.

        Args:
            drain: Wait for the requests in progress. Otherwise they get a ClosedError.
            timeout: Seconds to wait, after which the others get a ClosedError.
        """
        if os.getpid() != self._pid:
            return
        self._close(drain, timeout, self._options.run_timeout)

    def close_at_exit(self) -> None:
        """Close without waiting for requests, and not long for the batch in progress."""
        if os.getpid() == self._pid:
            self._close(False, None, _EXIT_SECONDS)

    def _close(self, drain: bool, timeout: float | None, join_seconds: float) -> None:
        schedule = self._schedule
        with self._lock:
            self._is_closing = True
            if drain:
                schedule.empty.wait_for(lambda: not schedule.requests, timeout)
            for request in list(schedule.requests.values()):
                schedule.fail(request, ClosedError("the batcher was closed"), "closed")
            for workers in self._all:
                workers.end()
        self._deliver()
        for workers in self._all:
            workers.join(join_seconds)
        with self._lock:
            self._is_ended = True
            self._tick.notify_all()
        if self._watcher is not threading.current_thread():
            self._watcher.join()
        _open.discard(self)

    # The way of a request

    def _start(
        self,
        values: Sequence[InputImage | str | CnclipError],
        name_of: Callable[[int], str],
        priority: Priority | None,
        timeout: float | None,
        *,
        strict: bool,
    ) -> Future[Embedded]:
        self._check_process()
        seconds = self._options.timeout if timeout is None else _check_timeout(timeout)
        request = Request(values, name_of, self._pipeline.model.info.embed_dim, strict=strict)
        request.priority = self._priority_of(priority, len(values))
        if seconds is not None:
            request.deadline = time.monotonic() + seconds
        needed = [item for item in request.items if item.is_needed]
        request.unprepared.extend(item for item in needed if item.kind == "img")
        texts = [item for item in needed if item.kind == "text"]
        if is_short := sum(map(characters_of, texts)) <= _INLINE_CHARACTERS:
            took = self._compute.tokenize(texts) if texts else 0.0
        else:
            starts = range(0, len(texts), _TEXTS_AT_ONCE)
            request.unprepared.extend(texts[start : start + _TEXTS_AT_ONCE] for start in starts)
        with self._lock:
            if self._is_closing:
                self._schedule.counters.refused["closed"] += 1
                raise ClosedError("the batcher is closed")
            self._schedule.admit(request)
            if is_short and texts:
                self._schedule.counters.tokenize_seconds.add(took)
            self._schedule.add(request, texts if is_short else [])
            if self._is_dozing:
                self._tick.notify()
        request.future.add_done_callback(self._forget)
        self._deliver()
        return request.future

    def _prepare(self, job: Item | list[Item]) -> None:
        """Prepare an image, or some texts, for the model."""
        begun = time.monotonic()
        error: CnclipError | None = None
        is_needed = any(item.is_needed for item in _items_of(job))
        try:
            if not is_needed:
                pass
            elif isinstance(job, list):
                self._compute.tokenize(job)
            else:
                self._compute.open(job)
        except BaseException as failure:
            error = as_error(failure, "the item cannot be prepared")
        seconds = time.monotonic() - begun
        with self._lock:
            if error is not None:
                for item in _items_of(job):
                    self._schedule.settle(item, error)
            else:
                self._schedule.prepared(_items_of(job))
            if isinstance(job, list):
                self._schedule.counters.tokenize_seconds.add(seconds)
            elif is_needed:
                self._schedule.prepare_took(seconds)
        self._deliver()

    def _run(self, batch: Batch) -> None:
        """Run the model for a batch."""
        begun = time.monotonic()
        try:
            vectors, errors = self._compute.rows(batch)
        except BaseException as failure:
            error = as_error(failure, "the model failed")
            logger.warning("a batch of %d items failed: %s", len(batch.items), error)
            with self._lock:
                self._schedule.failed(batch, error)
        else:
            seconds = time.monotonic() - begun
            with self._lock:
                self._schedule.succeeded(batch, vectors, errors, seconds)
        self._deliver()

    def _deliver(self) -> None:
        """Give the futures of closed requests their outcomes; without the lock."""
        done = self._schedule.done
        while done:
            try:
                request = done.popleft()
            except IndexError:  # another thread was faster
                return
            future, outcome = request.future, request.outcome
            try:
                if future.set_running_or_notify_cancel():
                    if isinstance(outcome, CnclipError):
                        future.set_exception(outcome)
                    else:
                        future.set_result(outcome)
            except BaseException:  # of a callback
                logger.exception("a callback of a future failed")

    def _forget(self, future: Future[Embedded]) -> None:
        """Drop the request of a future that was cancelled."""
        if future.cancelled():
            with self._lock:
                self._schedule.forget(future)
            self._deliver()

    # The time

    def _watch(self) -> None:
        """Look at the time until the end: expired requests, slow preparing, batches that hang."""
        schedule, options, idle_since = self._schedule, self._options, time.monotonic()
        while True:
            with self._lock:
                if self._is_ended:
                    return
                now = time.monotonic()
                schedule.expire(now)
                for _ in self._preparers.check(now):
                    pass
                for job in self._preparers.jobs_since(now - options.prepare_timeout):
                    self._give_up(job)
                for workers in (self._runners, self._retriers):
                    for batch in workers.check(now):
                        logger.error("a batch of %d items hangs", len(batch.items))
                        schedule.hung(batch)
                if schedule.requests or any(workers.is_working for workers in self._all):
                    idle_since = now
                self._is_dozing = now - idle_since > _DOZE_AFTER
                if not schedule.done:
                    self._tick.wait(None if self._is_dozing else _TICK)
                self._is_dozing = False
            self._deliver()

    def _give_up(self, job: Item | list[Item]) -> None:
        """Fail items whose preparing takes too long; with the lock."""
        limit = self._options.prepare_timeout
        for item in _items_of(job):
            error = ImageError(f"could not be opened and prepared within {limit:g} seconds")
            self._schedule.settle(item, error)

    # Checks

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedProcessError(
                "the batcher was made before a fork, and its threads are the parent's: make one in "
                "each process"
            )

    def _priority_of(self, priority: Priority | None, count: int) -> Priority:
        if priority is None:
            return "interactive" if count <= self._options.interactive_items else "bulk"
        if priority not in PRIORITIES:
            reason = f"expected 'interactive' or 'bulk', got {priority!r:.40}"
            raise InvalidInputError(reason, item="priority")
        return priority


def _items_of(job: Item | list[Item]) -> list[Item]:
    return job if isinstance(job, list) else [job]


def _check_timeout(timeout: float) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise InputTypeError(f"expected seconds, got {type(timeout).__name__}", item="timeout")
    if not (timeout > 0 and math.isfinite(timeout)):
        raise InvalidInputError(f"expected more than 0 seconds, got {timeout}", item="timeout")
    return float(timeout)


_open: weakref.WeakSet[Batcher] = weakref.WeakSet()


def _close_all() -> None:
    """Close the batchers that are still open when the interpreter ends."""
    for batcher in list(_open):
        batcher.close_at_exit()


with contextlib.suppress(RuntimeError):  # the interpreter ends already
    # Not atexit, whose functions are called after threads that are no daemons have ended.
    getattr(threading, "_register_atexit", atexit.register)(_close_all)
