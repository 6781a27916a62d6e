"""The queues, turns and threads of a batcher, without a model."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

import pytest

from cnclip.serve.batching.counters import Tally
from cnclip.serve.batching.queues import Item, Limit, Queue, Request, Turns
from cnclip.serve.batching.workers import Workers
from tests.support.batcher import eventually


def request(*texts: str, tokens: int = 3) -> Request:
    made = Request(texts, str, 4, strict=True)
    for item in made.items:
        item.tokens = tokens
        made.ready["text"].append(item)
    return made


def ready() -> Queue:
    return Queue(lambda one: one.ready["text"])


def texts(items: list[Item]) -> str:
    return "".join(str(item.value) for item in items)


def test_requests_take_turns() -> None:
    queue = ready()
    large, small, other = request(*"abcdefgh"), request("x"), request("y")
    for one in (large, small, other):
        queue.add(one)
        queue.add(one)
    found = []
    while queue:
        found.append(texts(queue.take(0.0, Limit(3, 1000))))
    assert found == ["abc", "xyd", "efg", "h"]


def test_a_request_that_does_not_fit_keeps_its_turn() -> None:
    queue = ready()
    first, second, third = request("a"), request("b", tokens=90), request("c")
    for one in (first, second, third):
        queue.add(one)
    # Texts are padded to the longest: two of 90 tokens do not fit in 100.
    assert texts(queue.take(0.0, Limit(10, 100))) == "a"
    assert texts(queue.take(0.0, Limit(10, 100))) == "b"
    assert texts(queue.take(0.0, Limit(10, 100))) == "c"
    queue.add(request("long", tokens=500))
    assert texts(queue.take(0.0, Limit(10, 100))) == "long"


def test_expired_and_removed_requests_are_passed_over() -> None:
    queue = ready()
    gone, late, kept = request("a"), request("b"), request("c")
    late.deadline = 5.0
    for one in (gone, late, kept):
        queue.add(one)
    queue.remove(gone)
    queue.remove(gone)
    assert texts(queue.take(6.0, Limit(10, 100))) == "c"
    assert not queue


@pytest.mark.parametrize("always", ["interactive", "bulk", "both"])
def test_bulk_requests_get_one_turn_in_five(always: str) -> None:
    turns, found = Turns(), ""
    for _ in range(15):
        priority = turns.order()[0] if always == "both" else always
        turns.took(priority, bulk_waits=always != "interactive")  # type: ignore[arg-type]
        found += priority[0]
    assert found == {"interactive": "i" * 15, "bulk": "b" * 15, "both": "iiiib" * 3}[always]


def test_tallies() -> None:
    tally = Tally((1, 2, 4))
    for value in (0, 1, 1.5, 4, 9):
        tally.add(value)
    assert (tally.counts, tally.count, tally.total) == ([2, 1, 1, 1], 5, 15.5)
    assert tally.mean == 3.1
    assert Tally((1,)).mean == 0


def test_threads_that_are_late_are_replaced_and_join_again() -> None:
    wake, jobs, done = threading.Condition(), deque(["slow"] * 2 + ["quick"]), []
    release = threading.Event()

    def do(job: str) -> None:
        if job == "slow":
            release.wait(20)
        done.append(job)
        raise SystemExit  # ends no thread

    workers: Workers[str] = Workers(
        "test", (1, 1), 0.05, lambda: jobs.popleft() if jobs else None, do, wake
    )

    def check() -> list[Any]:
        with wake:
            return list(workers.check(time.monotonic()))

    with wake:
        workers.start()
        assert len(workers) == 1
    assert eventually(lambda: check() == ["slow"])
    assert eventually(lambda: check() == ["slow"])
    time.sleep(0.1)
    assert check() == []  # no spare thread is left
    with wake:
        assert len(workers) == 2
        assert not workers.has_time
        assert not workers.is_working
        assert workers.jobs_since(time.monotonic()) == ["slow"] * 2
    assert not done
    release.set()
    assert eventually(lambda: sorted(done) == ["quick", "slow", "slow"])
    assert eventually(lambda: len(workers) == 1)
    with wake:
        assert workers.has_time
        workers.end()
    workers.join(5)
    assert len(workers) == 0
