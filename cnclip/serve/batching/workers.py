"""Threads that go on when one of them hangs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

logger = logging.getLogger("cnclip")

Job = TypeVar("Job")


class _Worker(threading.Thread, Generic[Job]):
    """A thread; `job` is what it does since `begun`, and `is_late` whether that takes too long."""

    job: Job | None = None
    begun = 0.0
    is_late = False


class Workers(Generic[Job]):
    """Threads that take jobs while there are any.

    A thread whose job takes longer than the limit is late. Another one is started in its place; the
    late thread is free to end its job, and joins the others again if they are too few.

    Args:
        name: The name of the threads.
        counts: Threads that are not late, and those that may be late; more are not replaced.
        limit: Seconds of a job, after which its thread is late.
        take: Returns the next job or None; called with the lock.
        do: Does a job; called without the lock.
        wake: The condition that is notified when there are jobs; its lock guards everything.
    """

    def __init__(
        self,
        name: str,
        counts: tuple[int, int],
        limit: float,
        take: Callable[[], Job | None],
        do: Callable[[Job], None],
        wake: threading.Condition,
    ) -> None:
        self._name, self._limit = name, limit
        self._count, self._spare = counts
        self._take, self._do, self._wake = take, do, wake
        self._threads: set[_Worker[Job]] = set()
        self._ending: list[_Worker[Job]] = []
        self._wanted = 0
        self._is_ended = False

    def __len__(self) -> int:
        return len(self._threads)

    def start(self, count: int | None = None) -> None:
        """Start the threads that are missing, until there are so many; with the lock.

        Args:
            count: Threads, at most as many as there may be; by default all. Fewer than before
                change nothing.

        Raises:
            RuntimeError: the system allows no more threads.
        """
        self._wanted = max(self._wanted, min(self._count, count or self._count))
        while self._on_time() < self._wanted and len(self._threads) < self._wanted + self._spare:
            worker: _Worker[Job] = _Worker(target=self._loop, name=self._name, daemon=True)
            worker.start()
            self._threads.add(worker)

    def check(self, now: float) -> Iterator[Job]:
        """Replace threads that have become late, and yield their jobs; with the lock."""
        late = [
            worker
            for worker in self._threads
            if worker.job is not None and not worker.is_late and now - worker.begun > self._limit
        ]
        for worker in late:
            worker.is_late = True
            job = worker.job
            if job is not None:
                yield job
        try:
            if self._wanted and not self._is_ended:
                self.start(self._wanted)
        except RuntimeError as error:  # the next check tries again
            logger.error("no thread for %s: %s", self._name, error)

    def jobs_since(self, begun: float) -> list[Job]:
        """The jobs in progress that were begun before a time; with the lock."""
        return [one.job for one in self._threads if one.job is not None and one.begun < begun]

    @property
    def is_working(self) -> bool:
        """Whether a job is in progress on a thread that is not late; with the lock."""
        return any(one.job is not None and not one.is_late for one in self._threads)

    @property
    def has_time(self) -> bool:
        """Whether a thread is not late; with the lock."""
        return self._on_time() > 0

    def end(self) -> None:
        """Let the threads end when their jobs are done; with the lock."""
        self._is_ended = True
        self._ending = list(self._threads)
        self._wake.notify_all()

    def join(self, seconds: float) -> None:
        """Wait for the threads that are not late, after `end`; without the lock."""
        end = time.monotonic() + seconds
        for worker in self._ending:
            if worker is not threading.current_thread():
                while worker.is_alive() and not worker.is_late and time.monotonic() < end:
                    worker.join(0.05)

    def _on_time(self) -> int:
        return sum(not worker.is_late for worker in self._threads)

    def _loop(self) -> None:
        worker = threading.current_thread()
        assert isinstance(worker, _Worker)
        while (job := self._next(worker)) is not None:
            try:
                self._do(job)
            except BaseException:  # nothing ends a worker
                logger.exception("a worker of the batcher failed")
            del job

    def _next(self, worker: _Worker[Job]) -> Job | None:
        """The worker's next job; None for the end of the thread."""
        with self._wake:
            worker.job = None
            while not self._is_ended:
                if worker.is_late:
                    if self._on_time() >= self._wanted:
                        break  # it was replaced
                    worker.is_late = False
                job = self._take()
                if job is not None:
                    worker.job, worker.begun = job, time.monotonic()
                    return job
                self._wake.wait()
            self._threads.discard(worker)
            return None
