"""What a process does to the files of a folder: recorded, or made to fail at a chosen call.

`tests/support/file_operations.c` is preloaded into this process. It sees the calls of Python, torch
and the core alike.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "support" / "file_operations.c"
VARIABLE = "CNCLIP_FILE_OPERATIONS"
# The kinds of calls that can fail, in the order of the library's.
KINDS = ("open", "write", "fsync", "rename", "mmap", "read", "unlink")
_HEADER = struct.Struct("@5q")
# Operations that change files, or read them (R), and those that the recorder does not understand.
_UNKNOWN = "MS"


@dataclass(frozen=True)
class Operation:
    """A call that succeeded.

    Attributes:
        letter: C create a file, D a directory, T set a size, W write, F flush, N rename, L link,
            U unlink, E remove a directory, R read.
        path: The file, relative to the folder; "" for the folder.
        second: The new name of N and L.
        number: The offset of W, the size of T.
        data: What W wrote.
    """

    letter: str
    path: str
    second: str = ""
    number: int = 0
    data: bytes = b""


@dataclass(frozen=True)
class Fault:
    """A failure of a call.

    Attributes:
        kind: One of KINDS.
        number: The number of the call of this kind, from 1.
        error: The name of the error; "short" for a write of half of the bytes.
    """

    kind: str
    number: int
    error: str

    @property
    def lasts(self) -> bool:
        """Whether all later calls of this kind fail too: a full disk stays full."""
        return self.error == "ENOSPC"

    def __str__(self) -> str:
        return f"{self.kind} {self.number}: {self.error}"


def start_with_library() -> Path:
    """Replace this process by one with the library, unless it has it.

    Returns:
        A new folder for temporary files, which has the library.

    Raises:
        FileNotFoundError: there is no C compiler.
    """
    if VARIABLE not in os.environ:
        _restart()
    return Path(os.environ[VARIABLE]).parent


def _restart() -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        raise FileNotFoundError("no C compiler: cc")
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # where flushing costs nothing
    folder = Path(tempfile.mkdtemp(prefix="cnclip-reliability-", dir=memory)).resolve()
    library = folder / "file_operations.so"
    flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    subprocess.run([compiler, *flags, SOURCE, "-o", library, "-ldl", "-lpthread"], check=True)
    environment = os.environ | {"LD_PRELOAD": str(library), VARIABLE: str(library)}
    environment |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    environment["TORCH_DISABLE_ADDR2LINE"] = "1"  # its traces take seconds
    os.execve(sys.executable, sys.orig_argv, environment)


class Recorder:
    """The library in this process, which watches one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        assert os.path.realpath(folder) == self._folder
        self._library = ctypes.CDLL(os.environ[VARIABLE])
        self._library.files_calls.restype = ctypes.c_long
        self._library.files_failed.restype = ctypes.c_long
        self._stopped = ctypes.c_char_p(b"")

    @contextlib.contextmanager
    def recorded(self) -> Iterator[list[Operation]]:
        """The operations of the block, which are in the list when it has ended."""
        found: list[Operation] = []
        descriptor = os.memfd_create("operations")
        self._library.files_record(descriptor)
        self._library.files_watch(os.fsencode(self._folder))
        try:
            yield found
        finally:
            self._library.files_watch(self._stopped)
            self._library.files_record(-1)
            with open(descriptor, "rb") as file:
                file.seek(0)
                found += self._parsed(file.read())

    def _parsed(self, content: bytes) -> Iterator[Operation]:
        place = 0
        while place < len(content):
            letter, number, *sizes = _HEADER.unpack_from(content, place)
            place += _HEADER.size
            parts = []
            for size in sizes:
                parts.append(content[place : place + size])
                place += size
            paths = [self._relative(os.fsdecode(part)) if part else "" for part in parts[:2]]
            operation = Operation(chr(letter), *paths, number, parts[2])
            if operation.letter in _UNKNOWN:
                raise NotImplementedError(f"an operation that is not replayed: {operation}")
            yield operation

    def _relative(self, path: str) -> str:
        if path == self._folder:
            return ""
        assert path.startswith(f"{self._folder}/"), path
        return path[len(self._folder) + 1 :]

    @contextlib.contextmanager
    def failing(self, fault: Fault) -> Iterator[dict[str, int]]:
        """Let a call of the block fail. At its end, the dict has the number of calls of each kind.

        "failed" is the number of calls that failed.
        """
        counts: dict[str, int] = {}
        error = 0 if fault.error == "short" else getattr(errno, fault.error)
        kind = KINDS.index(fault.kind)
        self._library.files_fail(kind, ctypes.c_long(fault.number), error, int(fault.lasts))
        self._library.files_watch(os.fsencode(self._folder))
        try:
            yield counts
        finally:
            self._library.files_watch(self._stopped)
            counts |= {name: self._library.files_calls(i) for i, name in enumerate(KINDS)}
            counts["failed"] = self._library.files_failed()
            self._library.files_fail(len(KINDS), ctypes.c_long(0), 0, 0)  # recorded runs follow
