"""A target of the Python fuzzers: a function of bytes, and what it may raise."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeVar

from cnclip.errors import CnclipError

T = TypeVar("T")

# Of the processor, for an input of some kB.
MAX_SECONDS = 2.0
SEEDS = Path(__file__).parent / "corpus"


class Finding(Exception):
    """An input for which the product does not keep its promise."""


class Target(NamedTuple):
    """What a fuzzer runs.

    Attributes:
        run: Reads or computes something, and raises what it likes for a fault of the product.
        seeds: The inputs to begin with, in addition to those in `corpus`.
        errors: What the reader documents for an input that it refuses.
        max_len: Bytes of an input.
    """

    run: Callable[[bytes], object]
    seeds: Callable[[], Iterable[bytes]] = tuple
    errors: tuple[type[CnclipError], ...] = ()
    max_len: int = 4096

    def check(self, content: bytes) -> bool:
        """Run the target on an input.

        Returns:
            Whether the input was accepted.

        Raises:
            Finding: it took too long; or was refused without a file, or with a text that is not
                fit to print.
            Exception: anything else than `errors`.
        """
        begin = time.process_time()
        try:
            self.run(content)
            accepted = True
        except self.errors as error:
            accepted = False
            _check_error(error)
        seconds = time.process_time() - begin
        if seconds > MAX_SECONDS:
            raise Finding(f"{seconds:.1f} s")
        return accepted


def _check_error(error: CnclipError) -> None:
    if error.where is None or error.where.file is None:
        raise Finding("an error without a file") from error
    text = str(error).replace("\n", "").replace("\u3000", "")
    if not text.isprintable():
        raise Finding("an error that is not printable") from error
    text.encode()


def split_choice(content: bytes, choices: tuple[T, ...]) -> tuple[T, bytes]:
    """One of several things by the first byte of an input, and the rest of the input."""
    return choices[content[0] % len(choices) if content else 0], content[1:]


@cache
def scratch() -> Path:
    """A folder for the files that targets read, which is removed when the process ends."""
    folder = tempfile.mkdtemp(prefix="cnclip-fuzz-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def written(name: str, content: bytes) -> Path:
    """A file with this content."""
    path = scratch() / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path
