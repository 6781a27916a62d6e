"""Keeps converted archives, so that a checkpoint is converted once.

Archives lie under `$CNCLIP_CACHE` (default: the platform's user cache directory), named by the
checkpoint's content. Beside them stand small records of which content a file had when it was last
seen, so that opening a converted directory reads none of its gigabytes. This file needs no torch.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .archive import FORMAT_VERSION, SUFFIX, is_archive

_CHUNK = 1 << 20
_DIGEST_LENGTH = 64


def cache_directory() -> Path:
    """Where archives are kept: `$CNCLIP_CACHE`, or the platform's user cache directory."""
    chosen = os.environ.get("CNCLIP_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "cnclip"


def digest_of(files: list[Path]) -> str:
    """SHA-256 over the names and contents of files, remembered by their identity on disk.

    Raises:
        OSError: a file cannot be read, or the cache directory not be written.
    """
    return hash_files(files, _remembered_hash)


def hash_files(files: list[Path], hash_file: Callable[[Path], str] | None = None) -> str:
    """SHA-256 over the names and contents of files, read now unless `hash_file` knows better."""
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name}\0{(hash_file or _hash)(file)}\n".encode())
    return total.hexdigest()


def cached_archive(name: str, digest: str, convert: Callable[[Path], None]) -> Path:
    """The archive of a checkpoint's content, made by `convert` if it is not there.

    Args:
        name: Begins the file's name, for people who look into the directory.
        digest: Of the checkpoint's content.
        convert: Writes the archive to the path that it is given.

    Raises:
        OSError: the cache directory cannot be written.

    Safe when several processes do it at once: each writes a file of its own and renames it.
    """
    directory = _private_directory("archives")
    archive = directory / f"{name}-{digest[:32]}-v{FORMAT_VERSION}{SUFFIX}"
    if not is_archive(archive):
        with replaced_atomically(archive) as temporary:
            convert(temporary)
    return archive


@contextmanager
def replaced_atomically(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends without an exception."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _private_directory(name: str) -> Path:
    """A directory of the cache that only this user can read: archives are code."""
    top = cache_directory()
    top.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory = top / name
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory


def _remembered_hash(file: Path) -> str:
    identity = _identity(file)
    record = _private_directory("digests") / identity
    remembered = record.read_text(encoding="ascii") if record.exists() else ""
    if len(remembered) == _DIGEST_LENGTH:
        return remembered
    digest = _hash(file)
    if _identity(file) == identity:
        with replaced_atomically(record) as temporary:
            temporary.write_text(digest, encoding="ascii")
    return digest


def _identity(file: Path) -> str:
    """Changes when a file is written or replaced: the inode's change time cannot be set back."""
    state = file.stat()
    parts = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino, state.st_dev]
    return hashlib.sha256(f"{file.resolve()}\0{parts}".encode()).hexdigest()


def _hash(file: Path) -> str:
    total = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            total.update(chunk)
    return total.hexdigest()
