"""Temporary files and directories, and the removal of those that killed processes left.

A process holds a lock on each temporary file that it writes. The system releases the lock when the
process ends, however it ends. A later run that writes to the same place removes the temporary files
that nobody has locked; it never removes those of a running process.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ._text import first_line

logger = logging.getLogger("cnclip")

# The names that `temporary_name` makes; the group is the beginning of the final name.
_TEMPORARY = re.compile(r"\.(.*)\.[0-9a-f]{8}\.tmp", re.DOTALL)
_MAX_KEPT = 80  # characters of the final name
# Directories in the system's directory for temporary files.
_SCRATCH = "cnclip-scratch"


def temporary_name(path: Path) -> Path:
    """An unused name in the directory of `path`."""
    return path.with_name(f".{path.name[:_MAX_KEPT]}.{secrets.token_hex(4)}.tmp")


@contextlib.contextmanager
def temporary_file(path: Path, mode: int) -> Iterator[Path]:
    """A new, empty file next to `path`, removed at the end unless it was renamed.

    Those that killed processes left there are removed first.

    Raises:
        OSError: it cannot be created.
    """

    def create(temporary: Path) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(temporary, flags, mode)

    with _locked_at(path, create) as temporary:
        yield temporary


@contextlib.contextmanager
def temporary_directory(path: Path) -> Iterator[Path]:
    """A new directory next to `path`, as `temporary_file`."""

    def create(temporary: Path) -> int:
        temporary.mkdir()
        return os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    with _locked_at(path, create) as temporary:
        yield temporary


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """A new directory that only this user can read, among the system's temporary files.

    Raises:
        OSError: it cannot be created.
    """
    owner = f"{_SCRATCH}-{os.geteuid()}"
    with temporary_directory(Path(tempfile.gettempdir()) / owner) as directory:
        directory.chmod(0o700)
        yield directory


@contextlib.contextmanager
def _locked_at(path: Path, create: Callable[[Path], int]) -> Iterator[Path]:
    """A new temporary name next to `path`, locked until the end, when what it names is removed.

    Args:
        path: The final name.
        create: Creates a file or directory of the name that it is given, and opens it.
    """
    remove_temporaries(path)
    while True:
        temporary = temporary_name(path)
        descriptor = create(temporary)
        if _locked(descriptor):
            break
        os.close(descriptor)
    try:
        yield temporary
    finally:
        try:
            with contextlib.suppress(OSError):  # the block's own error counts
                remove(temporary)
        finally:
            os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Lock a new file; False if a run that removes temporary files was faster and removed it."""
    # Some network file systems have no locks; nobody removes temporary files there.
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return os.fstat(descriptor).st_nlink > 0


def remove_temporaries(path: Path) -> None:
    """Remove the temporary files and directories that killed processes left next to `path`."""
    _remove_those_of(path.parent, path.name[:_MAX_KEPT])


def remove_all_temporaries(directory: Path) -> None:
    """Remove all temporary files and directories that killed processes left in a directory."""
    _remove_those_of(directory, None)


def _remove_those_of(directory: Path, name: str | None) -> None:
    try:
        with os.scandir(directory) as entries:
            found = [(one.path, _TEMPORARY.fullmatch(one.name)) for one in entries]
    except OSError:
        return  # writing there reports the error
    for place, match in found:
        if match is not None and name in (None, match[1]):
            _remove_if_left(Path(place))


def is_temporary_of(path: Path, final: Path) -> bool:
    """Whether a path is one that `temporary_name` makes for the final one."""
    match = _TEMPORARY.fullmatch(path.name)
    return match is not None and match[1] == final.name[:_MAX_KEPT] and path.parent == final.parent


def _remove_if_left(path: Path) -> None:
    """Remove a temporary file or directory of this user that no process has locked."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with contextlib.suppress(OSError):
        descriptor = os.open(path, flags)
        try:
            state = os.fstat(descriptor)
            kind = stat.S_IFMT(state.st_mode)
            if state.st_uid != os.geteuid() or kind not in (stat.S_IFREG, stat.S_IFDIR):
                return
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(path)
            logger.debug("removed %s, which a killed process left", path)
        finally:
            os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, link or directory, if it exists.

    Raises:
        OSError: a file or link cannot be removed. For a part of a directory there is a warning, and
            the rest is removed.
    """
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    try:
        shutil.rmtree(path)
    except OSError as error:
        shutil.rmtree(path, ignore_errors=True)
        if path.exists():
            logger.warning("%s: cannot be removed: %s", path, first_line(error))
