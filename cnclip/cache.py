"""The cache of converted archives, so that a checkpoint is converted once.

Archives are stored under `$CNCLIP_CACHE` (default: the platform's user cache directory), named by
the checkpoint's content. Small records next to them store results of reading a whole file, such as
its digest, so that opening a converted directory again does not read its gigabytes. This module
needs no torch.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ._files import identity_of, replaced_atomically, sha256_of
from ._temporaries import remove_all_temporaries, scratch_directory
from ._text import first_line
from .archive import FORMAT_VERSION, SUFFIX, check_archive, read_archive
from .errors import ArchiveError

logger = logging.getLogger("cnclip")

# The coarsest resolution at which file systems store times.
_CLOCK_TICK_SECONDS = 2.0
# Directories that are removed when the process ends.
_until_exit = contextlib.ExitStack()
atexit.register(_until_exit.close)


def cache_directory() -> Path:
    """The cache's directory: `$CNCLIP_CACHE`, or `cnclip` in the platform's user cache directory.

    Raises:
        OSError: neither is known, for example for a user without a home directory.
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
        raise OSError(f"{first_line(error)}; set CNCLIP_CACHE to a directory") from error
    return Path(base) / "cnclip"


def cached_archive(name: str, digest: str, write: Callable[[Path], None]) -> Path:
    """The path of a checkpoint's archive, which is written if the cache has no undamaged one.

    Several processes may do this at once: each writes its own temporary file and renames it. If the
    cache directory cannot be used, a warning is logged, and the archive is written to a temporary
    directory that is removed when the process ends.

    Args:
        name: The beginning of the file's name, for people who look into the directory.
        digest: The digest of the checkpoint's content.
        write: Writes the archive to a path.
    """
    archive_name = f"{file_name(name)}-{digest[:32]}-v{FORMAT_VERSION}{SUFFIX}"
    try:
        archive = private_directory("archives") / archive_name
        if not _is_intact(archive):
            remove_all_temporaries(archive.parent)
            with replaced_atomically(archive, mode=0o600) as temporary:
                write(temporary)
    except OSError as error:
        archive = file_without_cache(archive_name, error)
        write(archive)
    return archive


def file_name(name: str) -> str:
    """A name in a short form, of characters that every file system and libtorch accept."""
    return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)[:80]


def file_without_cache(name: str, error: OSError) -> Path:
    """A path to write a file to where the cache cannot be used, which is logged with the error.

    It is in a new temporary directory, which is removed when the process ends.
    """
    logger.warning("the cache directory cannot be used: %s", error)
    return _until_exit.enter_context(scratch_directory()) / name


def _is_intact(archive: Path) -> bool:
    try:
        read_archive(archive)
        check_once(archive)
    except (ArchiveError, FileNotFoundError):
        return False
    return True


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


def remembered_sha256(file: Path) -> str:
    """SHA-256 of a file's content, computed only if the file changed since the last time.

    Raises:
        OSError: the file cannot be read.
    """
    return remembered(file, "sha256", sha256_of)


def remembered(file: Path, question: str, compute: Callable[[Path], str]) -> str:
    """The result of `compute(file)`, computed only if the file changed since the last time.

    Args:
        file: The file that is read.
        question: The name of the result, which distinguishes it from others of the same file.
        compute: Returns an ASCII string that is not empty.
    """
    identity = identity_of(file)
    record = None
    # If records cannot be stored, the result is computed each time.
    with contextlib.suppress(OSError):
        record = private_directory("records") / f"{question}-{identity}"
        if known := record.read_text(encoding="ascii", errors="replace"):
            return known
    result = compute(file)
    # A file just written may be written again within the same tick of its file system's clock.
    settled = time.time() - file.stat().st_ctime > _CLOCK_TICK_SECONDS
    if record is not None and settled and identity_of(file) == identity:
        remove_all_temporaries(record.parent)
        with contextlib.suppress(OSError), replaced_atomically(record, mode=0o600) as temporary:
            temporary.write_text(result, encoding="ascii")
    return result


def private_directory(name: str) -> Path:
    """A directory of the cache that only this user can access: archives contain code.

    Raises:
        OSError: it cannot be made, or other users can write to it.
    """
    directory = cache_directory() / name
    if not directory.is_dir():
        for each in (*reversed(directory.parents), directory):
            each.mkdir(mode=0o700, exist_ok=True)
    if os.name == "posix":
        for each in (directory.parent, directory):
            state = each.stat()
            if state.st_uid != os.geteuid() or state.st_mode & 0o022:
                raise PermissionError(
                    f"{each}: other users can write to it, and archives contain code"
                )
        if state.st_mode & 0o077:
            directory.chmod(0o700)
    return directory
