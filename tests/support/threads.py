"""The threads that a test's call has left.

They are compared one by one: threads of an earlier test, such as its server's, may end meanwhile.
"""

from __future__ import annotations

import threading
import time


def threads_since(before: set[threading.Thread]) -> set[threading.Thread]:
    """The threads of this process that were not there before: `set(threading.enumerate())`."""
    return set(threading.enumerate()) - before


def no_threads_left(before: set[threading.Thread]) -> bool:
    """Whether the threads end; those of an interrupted call do so by themselves."""
    deadline = time.monotonic() + 5
    while threads_since(before) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not threads_since(before)
