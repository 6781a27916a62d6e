"""Progress of long work on stderr: a bar of tqdm if it is installed, else a line every 10 s."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

SECONDS_BETWEEN_LINES = 10.0


@contextlib.contextmanager
def progress(
    label: str, total: int | None = None, unit: str = "", *, done: int = 0, enabled: bool = True
) -> Iterator[Callable[[int], None]]:
    """Report the progress of a loop.

    Args:
        label: The name of the items, such as "images".
        total: The number of items, if it is known.
        unit: The unit of the rate, in the singular.
        done: The number of items that were finished before.
        enabled: Report anything at all.

    Yields:
        A function to call with the number of items finished since the last call.
    """
    if not enabled:
        yield lambda count: None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        yield progress_lines(label, total, done)
        return
    with tqdm(
        desc=label, total=total, initial=done, unit=f" {unit}", file=sys.stderr, delay=1.0
    ) as bar:
        yield bar.update


def progress_lines(label: str, total: int | None, done: int = 0) -> Callable[[int], None]:
    """The lines of `progress` without tqdm, which starts a thread: for processes that fork.

    Args:
        label: The name of the items.
        total: The number of items, if it is known.
        done: The number of items that were finished before.

    Returns:
        A function to call with the number of items finished since the last call.
    """
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
        print(f"{label}: {count}{of}, {rate:.1f}/s{left}", file=sys.stderr, flush=True)

    return advance
