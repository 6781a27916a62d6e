"""Keeps converted archives, so that a checkpoint is converted once.

Archives lie under `$CNCLIP_CACHE` (default: the platform's user cache directory), named by the
checkpoint's content. Beside them stand small records of what was found when a file was last read
as a whole, so that opening a converted directory again reads none of its gigabytes, and the archive
no more than once. This file needs no torch.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import logging
import os
import re
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .archive import FORMAT_VERSION, SUFFIX, check_archive, read_archive
from .errors import ArchiveError

logger = logging.getLogger("cnclip")

_CHUNK = 1 << 20
# What file systems round times to, at worst.
_CLOCK_TICK_SECONDS = 2.0


def cache_directory() -> Path:
    """Where archives are kept: `$CNCLIP_CACHE`, or the platform's user cache directory.

    Raises:
        OSError: neither is known, as for a user without a home directory.
    """
    try:
        chosen = os.environ.get("CNCLIP_CACHE")
        if chosen:
            return Path(chosen).expanduser()
        if sys.platform == "win32":
            base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            base = str(Path.home() / "Library" / "Caches")
        else:
            base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    except RuntimeError as error:
        raise OSError(f"{error}; set CNCLIP_CACHE to a directory") from error
    return Path(base) / "cnclip"


def digest_of(files: list[Path]) -> str:
    """SHA-256 over the names and contents of files, remembered by their identity on disk.

    Raises:
        OSError: a file cannot be read.
    """
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name}\0{sha256_of(file)}\n".encode())
    return total.hexdigest()


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's content, remembered by its identity on disk.

    Raises:
        OSError: the file cannot be read.
    """
    return remembered(file, "sha256", _hash)


def check_once(archive: Path) -> None:
    """Compare an archive with its checksums, unless that was done since it was last written.

    Raises:
        ArchiveError: a part was damaged after the archive was written; names the part.
        OSError: the file cannot be read.
    """

    def check(path: Path) -> str:
        check_archive(path)
        return "intact"

    remembered(archive, "checked", check)


def cached_archive(name: str, digest: str, convert: Callable[[Path], None]) -> Path:
    """The archive of a checkpoint's content, made by `convert` if it is not there undamaged.

    Args:
        name: Begins the file's name, for people who look into the directory.
        digest: Of the checkpoint's content.
        convert: Writes the archive to the path that it is given.

    Safe when several processes do it at once: each writes a file of its own and renames it. Where
    the cache directory cannot be used, the archive is written to a temporary one, which goes when
    the process ends, and the log says so.
    """
    # Short, and of characters that every file system and libtorch take.
    safe_name = re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)[:80]
    file_name = f"{safe_name}-{digest[:32]}-v{FORMAT_VERSION}{SUFFIX}"
    try:
        archive = _private_directory("archives") / file_name
        if not _is_intact(archive):
            with replaced_atomically(archive) as temporary:
                convert(temporary)
    except OSError as error:
        logger.warning("the cache directory cannot be used: %s", error)
        directory = tempfile.mkdtemp(prefix="cnclip-")
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        archive = Path(directory) / file_name
        convert(archive)
    return archive


def _is_intact(archive: Path) -> bool:
    try:
        read_archive(archive)
        check_once(archive)
    except (ArchiveError, FileNotFoundError):
        return False
    return True


@contextlib.contextmanager
def replaced_atomically(path: Path, mode: int = 0o600) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends without an exception.

    Args:
        path: Where the file is to be.
        mode: Its permissions, less those that the process's umask takes away.
    """
    temporary = temporary_beside(path)
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_beside(path: Path) -> Path:
    """A name that nothing has, in the directory of `path`."""
    return path.with_name(f".{path.name[:80]}.{secrets.token_hex(4)}.tmp")


def _private_directory(name: str) -> Path:
    """A directory of the cache that only this user can read: archives are code.

    Raises:
        OSError: there is none, or others can write to it.
    """
    directory = cache_directory() / name
    if not directory.is_dir():
        for each in (*reversed(directory.parents), directory):
            each.mkdir(mode=0o700, exist_ok=True)
    if os.name == "posix":
        for each in (directory.parent, directory):
            state = each.stat()
            if state.st_uid != os.geteuid() or state.st_mode & 0o022:
                raise PermissionError(f"{each}: others can write to it, and archives are code")
        if state.st_mode & 0o077:
            directory.chmod(0o700)
    return directory


def remembered(file: Path, question: str, answer: Callable[[Path], str]) -> str:
    """`answer(file)`, or what it was when the same file was last asked about."""
    identity = identity_of(file)
    record = None
    # Without a place for records, the answer is found anew each time.
    with contextlib.suppress(OSError):
        record = _private_directory("records") / f"{question}-{identity}"
        if known := record.read_text(encoding="ascii", errors="replace"):
            return known
    found = answer(file)
    # A file just written may be written again within the same tick of its file system's clock.
    settled = time.time() - file.stat().st_ctime > _CLOCK_TICK_SECONDS
    if record is not None and settled and identity_of(file) == identity:
        with contextlib.suppress(OSError), replaced_atomically(record) as temporary:
            temporary.write_text(found, encoding="ascii")
    return found


def identity_of(file: Path) -> str:
    """Changes when a file is written or replaced: the inode's change time cannot be set back.

    Raises:
        OSError: there is no such file.
    """
    state = file.stat()
    parts = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino, state.st_dev]
    return hashlib.sha256(f"{file.resolve()}\0{parts}".encode(errors="surrogateescape")).hexdigest()


def _hash(file: Path) -> str:
    total = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            total.update(chunk)
    return total.hexdigest()
