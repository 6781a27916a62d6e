"""`map` on threads, ahead of the consumer, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[T], Result], items: Iterable[T], threads: int, ahead: int
) -> Generator[Result, None, None]:
    """`map(function, items)`, with up to `ahead` items begun before their results are asked for.

    The threads live as long as the iteration, so that none is missing after a later fork. With
    fewer than two threads, the caller's thread does each item when its result is asked for.

    Args:
        function: Called on several threads at once.
        items: Drawn on the caller's thread, at most `ahead` items before the result asked for.
        threads: Threads to work on, in addition to the caller's.
        ahead: Bounds the items and results in memory.

    Yields:
        The results in the order of the items. What `function` or `items` raises for an item is
        raised in its place: the first item that fails decides. After an error, and when the
        iteration is closed, items that are not yet begun are dropped. Items that are under way are
        waited for after an error, but not after Ctrl-C or a close.
    """
    if threads < 2:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="cnclip")
    pending: deque[Future[Result]] = deque()
    source, exhausted, wait = iter(items), False, True
    try:
        while True:
            while not exhausted and len(pending) <= ahead:
                future, exhausted = _submit_next(pool, function, source)
                if future is not None:
                    pending.append(future)
            if not pending:
                return
            yield pending.popleft().result()
    except Exception:
        raise
    except BaseException:
        wait = False
        raise
    finally:
        pool.shutdown(wait=wait, cancel_futures=True)


def _submit_next(
    pool: ThreadPoolExecutor, function: Callable[[T], Result], source: Iterator[T]
) -> tuple[Future[Result] | None, bool]:
    """The future of the next item, or None at the end, and whether the source is exhausted."""
    try:
        return pool.submit(function, next(source)), False
    except StopIteration:
        return None, True
    except Exception as error:  # the source's own error is raised when its turn comes
        failed: Future[Result] = Future()
        failed.set_exception(error)
        return failed, True
