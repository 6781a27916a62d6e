"""Progress of long work on stderr: tqdm's bar where tqdm is installed, else a line now and then."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

SECONDS_BETWEEN_LINES = 10.0


@contextlib.contextmanager
def progress(
    what: str, total: int | None = None, unit: str = "", *, done: int = 0, enabled: bool = True
) -> Iterator[Callable[[int], None]]:
    """Tell how far work has come.

    Args:
        what: What is done, such as "images".
        total: Items in all, if that is known.
        unit: Of the rate, in the singular.
        done: Items that were done before.
        enabled: Tell anything at all.

    Yields:
        A function that is told how many more items are done.
    """
    if not enabled:
        yield lambda count: None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        yield _lines(what, total, done)
        return
    with tqdm(
        desc=what, total=total, initial=done, unit=f" {unit}", file=sys.stderr, delay=1.0
    ) as bar:

        def advance(count: int) -> None:
            bar.update(count)

        yield advance


def _lines(what: str, total: int | None, done: int) -> Callable[[int], None]:
    begin = last = time.monotonic()
    count = done

    def advance(more: int) -> None:
        nonlocal count, last
        count += more
        now = time.monotonic()
        if now - last < SECONDS_BETWEEN_LINES:
            return
        last = now
        rate = (count - done) / (now - begin)
        left = "" if total is None or not rate else f", {(total - count) / rate / 60:.1f} min left"
        of = "" if total is None else f" of {total}"
        print(f"{what}: {count}{of}, {rate:.1f}/s{left}", file=sys.stderr, flush=True)

    return advance
