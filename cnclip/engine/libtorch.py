"""The installed torch: found and loaded without importing it.

Python's `torch` package is not imported: an engine needs only the libraries, which load in a tenth
of the time. Importing torch before or after is fine; the process has one copy either way.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .._text import first_line
from ..errors import EngineError

LIBRARY_SUFFIX = ".dylib" if sys.platform == "darwin" else ".so"
# Versions of torch that the tests were run with, and those between them.
OLDEST, NEWEST = (2, 9), (2, 15)
# Turns of a waiting loop before a thread sleeps; about a tenth of a millisecond. With fewer, idle
# cores wait longer at each barrier.
SPINS = 10_000


@dataclass(frozen=True)
class Torch:
    """An installed torch.

    Attributes:
        directory: Its package.
        version: Such as `'2.13.0+cpu'`.
        description: The text of its version.py, which also names the build.
    """

    directory: Path
    version: str
    description: str

    @property
    def minor(self) -> tuple[int, int]:
        """The numbers of its minor version, such as (2, 13)."""
        major, minor = re.findall(r"\d+", self.version)[:2]
        return int(major), int(minor)


def dotted(version: tuple[int, int]) -> str:
    """A minor version as torch writes it, such as `'2.13'`."""
    return f"{version[0]}.{version[1]}"


def find_torch() -> Torch:
    """The installed torch.

    Raises:
        EngineError: torch is not installed, is older than `OLDEST`, or has no version.
    """
    oldest = dotted(OLDEST)
    try:
        spec = importlib.util.find_spec("torch")
    except (ImportError, ValueError):  # a finder refuses it; sys.modules has None for it
        spec = None
    # Without __init__.py it is a folder that an uninstalled torch left.
    if spec is None or spec.origin is None or not spec.submodule_search_locations:
        raise EngineError(f"torch is not installed: pip install 'torch>={oldest}'")
    directory = Path(next(iter(spec.submodule_search_locations)))
    file = directory / "version.py"
    try:
        description = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EngineError(f"no version of torch: {first_line(error)}", file=file) from error
    found = re.search(
        r"^__version__[^=\n]*=\s*['\"](\d+\.\d+[^'\"]*)['\"]", description, re.MULTILINE
    )
    if found is None:
        raise EngineError("it names no version of torch; install torch again", file=file)
    torch = Torch(directory, found.group(1), description)
    if torch.minor < OLDEST:
        raise EngineError(
            f"torch {torch.version} is installed, and cnclip needs {oldest} or newer: "
            f"pip install 'torch>={oldest}'"
        )
    return torch


def load_libraries(torch: Torch) -> None:
    """Load the libraries that an engine needs.

    By path, so that those of this torch are taken whatever the dynamic linker would find.

    Raises:
        EngineError: a library is missing or cannot be loaded.
    """
    with _bounded_waiting():
        for name in ("libc10", "libtorch_cpu"):
            library = torch.directory / "lib" / (name + LIBRARY_SUFFIX)
            try:
                ctypes.CDLL(str(library))
            except OSError as error:
                reason = f"a library of torch cannot be loaded: {first_line(error)}"
                raise EngineError(reason, file=library) from error


@contextlib.contextmanager
def _bounded_waiting() -> Iterator[None]:
    """Have libgomp, if it is loaded in the block, put threads to sleep that wait for long.

    By default they spin for milliseconds at each barrier, and take the core that the thread they
    wait for needs where other processes run. It reads the setting once, when it is loaded.
    """
    if os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = str(SPINS)
    try:
        yield
    finally:
        del os.environ["GOMP_SPINCOUNT"]


def load_cuda(torch: Torch) -> bool:
    """Load torch's CUDA library if this torch has one.

    Returns:
        Whether it is loaded: False for a CPU-only torch or where a driver library is missing.
    """
    library = torch.directory / "lib" / ("libtorch_cuda" + LIBRARY_SUFFIX)
    if not library.exists():
        return False
    try:
        ctypes.CDLL(str(library))
    except OSError:
        return False
    return True
