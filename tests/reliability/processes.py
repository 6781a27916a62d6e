"""Functions in forked processes, which may end in any way, and what they print."""

from __future__ import annotations

import contextlib
import os
import pickle
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Ended(NamedTuple):
    """The end of a process.

    Attributes:
        results: What the function yielded, until the process ended.
        signal: The signal that ended the process, or 0.
        printed: What it printed last.
    """

    results: list[Any]
    signal: int
    printed: str


class Output:
    """What this process prints from now on, on both descriptors and in native code too."""

    def __init__(self, path: Path) -> None:
        self._path = path
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        for number in (1, 2):
            os.dup2(descriptor, number)
        os.close(descriptor)

    def clear(self) -> None:
        """Drop what was printed."""
        os.truncate(self._path, 0)

    def read(self) -> str:
        """What was printed."""
        return self._path.read_text("utf-8", "replace")


def in_process(
    function: Callable[[Output], Iterator[Any]],
    log: Path,
    advance: Callable[[int], None] = lambda count: None,
) -> Ended:
    """Run a function that yields results in a fork of this process.

    Args:
        function: The function.
        log: A file for what it prints.
        advance: Called with 1 for each result.

    Raises:
        RuntimeError: the function raised an exception.
    """
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        status = 1
        try:
            os.close(reader)
            output = Output(log)
            with open(writer, "wb") as pipe:
                for result in function(output):
                    pickle.dump(result, pipe)
                    pipe.flush()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)
    results = []
    with open(reader, "rb") as pipe, contextlib.suppress(EOFError):
        while True:
            results.append(pickle.load(pipe))
            advance(1)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    printed = log.read_text("utf-8", "replace")
    if status > 0:
        raise RuntimeError(f"the test itself failed:\n{printed}")
    return Ended(results, max(0, -status), printed)
