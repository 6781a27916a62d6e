"""Work for items of any number, done on threads ahead of who takes the results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, ahead: int
) -> Iterator[Result]:
    """`map(function, items)`, with up to `ahead` items begun before their results are asked for.

    The threads live as long as the iteration, so that none is left to be missed after a fork.
    With one thread there are none: each item is done when its result is asked for.

    Args:
        function: Called on several threads at once.
        items: Drawn on the caller's thread, no further than `ahead` of the result asked for.
        threads: Threads to work on, besides the caller's.
        ahead: Bounds the items and results in memory.

    Returns:
        The results in the order of the items. What `function` or `items` raise for an item is
        raised in its place: the first item that fails decides. Then, and when it is closed, the
        iteration drops what it has not begun; it waits for the rest only after an error, not after
        Ctrl-C.
    """
    return map(function, items) if threads < 2 else _map_on_threads(function, items, threads, ahead)


def _map_on_threads(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, ahead: int
) -> Iterator[Result]:
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
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], source: Iterator[Item]
) -> tuple[Future[Result] | None, bool]:
    """The next item's future, if there is one, and whether it is the last."""
    try:
        return pool.submit(function, next(source)), False
    except StopIteration:
        return None, True
    except Exception as error:  # of the iterator: it waits for its turn
        failed: Future[Result] = Future()
        failed.set_exception(error)
        return failed, True
