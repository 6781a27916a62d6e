"""The way of a request through the threads of a batcher.

    start         tokenizes short texts, and puts the items of a request into the queues
    _fetch        on many threads: downloads images
    _prepare      on a thread per core: opens, decodes and resizes images, tokenizes other texts
    take_batch    when the model is free: the items that are ready, up to a limit
    _run          on the thread of the model: the rows of a batch
    settle        gives each item its row or its error
    _deliver      when a request needs no further item: its future gets the result

In between, items wait in the queues of a `Schedule`, which one lock guards. The threads are those
of `workers.py`, which replace one that hangs, and one that watches the time.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from concurrent.futures import Future
from functools import partial

from ...errors import ClosedError, CnclipError
from ...pipelines.stream import Embedder
from ...preprocessors.image import is_remote
from ...preprocessors.inputs import InputImage
from .compute import Compute, as_error, characters_of, took_too_long
from .counters import Counters
from .memory import DecodingMemory
from .options import BatchOptions
from .queues import Batch, Embedded, Item, Request, Stage
from .schedule import MAX_FETCHES, Schedule
from .workers import Workers

logger = logging.getLogger("cnclip")

# Texts with fewer characters in all are tokenized by the caller's thread.
_INLINE_CHARACTERS = 4096
# Texts that a thread tokenizes at a time.
_TEXTS_AT_ONCE = 256
# Seconds of preparing an image, after which another thread takes the next ones.
_SLOW = 1.0
# Threads that may be slow, or hang, at the same time.
_SLOW_PREPARERS, _HUNG_RUNNERS = 4, 3
# Seconds between two looks at the time, and without requests until it is no longer looked at.
_TICK, _DOZE_AFTER = 0.05, 2.0


class Dispatcher:
    """The threads of a batcher, and the state that they share.

    Attributes:
        decoding: The memory of images while they are decoded.

    Args:
        pipeline: An open pipeline.
        options: Limits.
    """

    def __init__(self, pipeline: Embedder, options: BatchOptions) -> None:
        self._options = options
        threads = options.threads or pipeline.preprocessor.num_threads
        self._lock = threading.Lock()
        self._is_closing = self._is_ended = False
        self._schedule = schedule = Schedule(pipeline.model, options, threads, self._lock)
        self.decoding = DecodingMemory(options.max_bytes, options.prepare_timeout)
        self._compute = Compute(pipeline, schedule.batch_images, self.decoding)
        self._tick = threading.Condition(self._lock)
        self._is_dozing = False
        slow = min(_SLOW, options.prepare_timeout)
        self._fetchers: Workers[Item | list[Item]] = Workers(
            "cnclip-fetch",
            (MAX_FETCHES, MAX_FETCHES),
            slow,
            partial(schedule.take_preparation, "fetch"),
            self._fetch,
            schedule.to_prepare["fetch"],
        )
        self._preparers: Workers[Item | list[Item]] = Workers(
            "cnclip-prepare",
            (threads, _SLOW_PREPARERS),
            slow,
            partial(schedule.take_preparation, "prepare"),
            self._prepare,
            schedule.to_prepare["prepare"],
        )
        self._runners: Workers[Batch] = Workers(
            "cnclip-run",
            (pipeline.model.batches_under_way, _HUNG_RUNNERS),
            options.run_timeout,
            schedule.take_batch,
            self._run,
            schedule.to_run,
        )
        # Items of a batch that hung are repeated on another thread: the others need not wait.
        self._retriers: Workers[Batch] = Workers(
            "cnclip-retry",
            (1, _HUNG_RUNNERS),
            options.run_timeout,
            schedule.take_suspect,
            self._run,
            schedule.to_retry,
        )
        self._all = (self._fetchers, self._preparers, self._runners, self._retriers)
        self._watcher = threading.Thread(target=self._watch, name="cnclip-watch", daemon=True)
        with self._lock:
            try:
                for workers in (self._preparers, self._runners, self._retriers):
                    workers.start()
                self._watcher.start()
            except RuntimeError:  # the system allows no more threads
                for workers in self._all:
                    workers.end()
                raise

    # Callers

    def start(self, request: Request) -> Future[Embedded]:
        """Begin to embed a request.

        Raises:
            ClosedError, BusyError, InvalidInputError: as `Batcher.submit`.
        """
        needed = [item for item in request.items if item.is_needed]
        for item in needed:
            if isinstance(item.value, InputImage):
                stage: Stage = "fetch" if is_remote(item.value.image) else "prepare"
                request.unprepared[stage].append(item)
        texts = [item for item in needed if item.kind == "text"]
        if is_short := sum(map(characters_of, texts)) <= _INLINE_CHARACTERS:
            took = self._compute.tokenize(texts) if texts else 0.0
        else:
            starts = range(0, len(texts), _TEXTS_AT_ONCE)
            request.unprepared["prepare"].extend(
                texts[start : start + _TEXTS_AT_ONCE] for start in starts
            )
        with self._lock:
            if self._is_closing:
                self._schedule.counters.refused["closed"] += 1
                raise ClosedError("the batcher is closed")
            if urls := len(request.unprepared["fetch"]):
                self._fetchers.start(len(self._fetchers) + urls)
            self._schedule.admit(request)
            if is_short and texts:
                self._schedule.counters.tokenize_seconds.add(took)
            self._schedule.add(request, texts if is_short else [])
            if self._is_dozing:
                self._tick.notify()
        request.future.add_done_callback(self._forget)
        self._deliver()
        return request.future

    @property
    def ready(self) -> bool:
        """Whether requests are accepted, and the model completes batches within its time."""
        with self._lock:
            is_working = self._schedule.has_succeeded(time.monotonic())
            return is_working and not self._is_closing and self._preparers.has_time

    def counters(self) -> Counters:
        """Totals since the start, and the present state."""
        with self._lock:
            counters = self._schedule.snapshot()
            counters.threads = sum(len(workers) for workers in self._all) + self._watcher.is_alive()
            return counters

    def close(self, drain: bool, timeout: float | None, join_seconds: float) -> None:
        """Refuse requests, wait for those in progress or fail them, and end the threads."""
        schedule = self._schedule
        with self._lock:
            self._is_closing = True
            if drain:
                self._drain(math.inf if timeout is None else timeout)
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

    def _drain(self, seconds: float) -> None:
        """Wait for the requests in progress, unless the model is dead; with the lock."""
        schedule, patience = self._schedule, self._options.run_timeout
        end = time.monotonic() + seconds
        while schedule.requests and (now := time.monotonic()) < end:
            if not schedule.has_succeeded(now - patience):
                return
            schedule.empty.wait(min(end - now, patience))

    # The steps

    def _fetch(self, job: Item | list[Item]) -> None:
        """Download an image."""
        error: CnclipError | None = None
        (item,) = _items_of(job)
        try:
            if item.is_needed:
                self._compute.fetch(item)
        except BaseException as failure:
            error = as_error(failure, "the image cannot be fetched")
        with self._lock:
            if error is None:
                self._schedule.fetched(item)
            else:
                self._schedule.settle(item, error)
        self._deliver()

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
        idle_since = time.monotonic()
        while True:
            with self._lock:
                if self._is_ended:
                    return
                now = time.monotonic()
                try:
                    is_busy = self._look(now)
                except Exception:  # nothing ends this thread
                    logger.exception("the batcher's watch failed")
                    is_busy = True
                idle_since = now if is_busy else idle_since
                self._is_dozing = now - idle_since > _DOZE_AFTER
                if not self._schedule.done:
                    self._tick.wait(None if self._is_dozing else _TICK)
                self._is_dozing = False
            self._deliver()

    def _look(self, now: float) -> bool:
        """Act on what takes too long; returns whether there is any work; with the lock."""
        schedule = self._schedule
        schedule.expire(now)
        for threads in (self._fetchers, self._preparers):
            for job in threads.check(now):
                for item in _items_of(job):
                    schedule.free_place(item)
            for job in threads.jobs_since(now - self._options.prepare_timeout):
                self._give_up(job)
        for workers in (self._runners, self._retriers):
            for batch in workers.check(now):
                logger.error("the model does not end with a batch of %d items", len(batch.items))
                schedule.hung(batch)
        return bool(schedule.requests) or any(workers.is_working for workers in self._all)

    def _give_up(self, job: Item | list[Item]) -> None:
        """Fail items whose preparing takes too long; with the lock."""
        limit = self._options.prepare_timeout
        for item in _items_of(job):
            self._schedule.settle(item, took_too_long(item, limit))


def _items_of(job: Item | list[Item]) -> list[Item]:
    return job if isinstance(job, list) else [job]
