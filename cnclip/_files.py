"""Files and directories that are replaced as a whole, digests and identities of files."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import logging
import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, ClassVar

from ._temporaries import is_temporary_of, remove, temporary_directory, temporary_file
from ._text import first_line

logger = logging.getLogger("cnclip")

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
)
# Errors of a write: no space, above a quota, above a limit, a damaged disk.
_NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
# Errors of fsync where a file system has none, for example for directories.
_NO_FSYNC = (errno.EINVAL, errno.ENOTSUP)
_CHUNK = 1 << 20
# Of LZMA, in bytes: the largest that its usual programs choose.
MAX_DICTIONARY = 64 << 20
# zipfile raises these for a damaged or hostile zip.
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
)


def not_a_file(mode: int) -> str | None:
    """The reason not to open a path with this `st_mode`, as a message; None for a regular file.

    A program that opens a FIFO or a device may wait forever.
    """
    if stat.S_ISREG(mode):
        return None
    kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "a device")
    return f"{kind}, not a file"


def why_not_a_file(path: str | os.PathLike[str]) -> str | None:
    """The reason why a path is not that of a file; None for a file, and if there is nothing."""
    try:
        return not_a_file(os.stat(path).st_mode)
    except (OSError, ValueError):
        return None


def check_file(path: str | os.PathLike[str]) -> None:
    """Refuse a path that is not a regular file, for libraries that open paths.

    Raises:
        OSError: it does not exist, or is not a regular file.
    """
    mode = os.stat(path).st_mode
    if (reason := not_a_file(mode)) is not None:
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        raise OSError(errno.EINVAL, reason, os.fspath(path))


class _NamedFile(io.FileIO):
    """A file whose errors name it: the system names no file where a read fails."""

    def read(self, size: int | None = -1, /) -> Any:
        with names_file(self.name):
            return super().read(size)

    def readall(self) -> Any:
        with names_file(self.name):
            return super().readall()

    def readinto(self, buffer: Any, /) -> Any:
        with names_file(self.name):
            return super().readinto(buffer)


def open_file(path: str | os.PathLike[str], buffering: int = -1) -> BinaryIO:
    """Open a regular file to read it. Never waits, as opening a FIFO would.

    An error of a later read names the file, too.
    Every file that a user names is opened here, or checked by `check_file`.

    Raises:
        OSError: it cannot be opened, or is not a regular file.
    """
    check_file(path)
    return open_checked_file(path, buffering)


def open_checked_file(path: str | os.PathLike[str], buffering: int = -1) -> BinaryIO:
    """Open a path that has been found to be a regular file, to read it.

    Raises:
        OSError: it cannot be opened.
    """
    file = _NamedFile(path, opener=_without_waiting)
    if buffering == 0:
        return file
    return io.BufferedReader(file, buffering if buffering > 0 else io.DEFAULT_BUFFER_SIZE)


def read_at_most(file: IO[bytes], limit: int) -> bytes | None:
    """What is left of an open file; None if that is more than `limit` bytes.

    `file.read(limit)` would allocate as much memory as the limit, however small the file is.
    """
    chunks: list[bytes] = []
    size = 0
    while chunk := file.read(_CHUNK):
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            return None
    return b"".join(chunks)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def open_zip_file(path: str | os.PathLike[str]) -> zipfile.ZipFile:
    """Open a zip to read it.

    Raises:
        OSError: it cannot be opened or read, or is not a regular file.
        ZIP_ERRORS: it is damaged, or a member claims more bytes than there are, or too much memory.
    """
    check_file(path)
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        cause = error.__context__  # zipfile calls a file damaged that cannot be read
        if isinstance(cause, OSError) and cause.errno != errno.EINVAL:
            raise cause from None
        raise
    try:
        assert archive.fp is not None
        size = os.fstat(archive.fp.fileno()).st_size
        for member in archive.infolist():
            # zipfile would allocate what is claimed, before it reads.
            if member.compress_size > size:
                claim = f"claims {member.compress_size} bytes, the file has {size}"
                raise zipfile.BadZipFile(f"{member.filename!r:.80} {claim}")
            if member.compress_type == zipfile.ZIP_LZMA:
                _check_dictionary(archive, member)
    except BaseException:
        archive.close()
        raise
    return archive


def _check_dictionary(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Refuse a member whose decompression would take more than MAX_DICTIONARY bytes of memory."""
    assert archive.fp is not None
    descriptor = archive.fp.fileno()
    # The last fields of the member's header are the lengths of its name and of extra fields; after
    # them are the version, the size of the properties, a byte, and the size of the dictionary.
    lengths = struct.unpack("<26x2H", os.pread(descriptor, 30, member.header_offset))
    begin = os.pread(descriptor, 9, member.header_offset + 30 + sum(lengths))
    (size,) = struct.unpack("<5xI", begin)
    if size > MAX_DICTIONARY:
        raise zipfile.BadZipFile(f"{member.filename!r:.80} claims {size} bytes of memory")


@contextlib.contextmanager
def replaced_atomically(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """A temporary file next to `path`, renamed to it when the block ends without an exception.

    The content is on the disk before the file is renamed, and the new name when this returns. After
    a crash of the system, `path` has its former content or the new one, never a part.

    Args:
        path: The file to create or replace.
        mode: Its permissions, before the process's umask is applied.

    Raises:
        OSError: the file cannot be written, or the path is that of a FIFO, a socket or a device,
            which a file must not replace. An existing file is unchanged.
    """
    if not path.is_dir() and (reason := why_not_a_file(path)) is not None:
        raise OSError(errno.EINVAL, reason, str(path))
    with (
        _named(path) as named,
        temporary_file(path, mode) as temporary,
    ):
        named.append(temporary)
        yield temporary
        flush(temporary)
        temporary.replace(path)
        flush(path.parent)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[list[Path]]:
    """Put the name of a file or directory in place of the temporary one in an OSError.

    The system names no file where a write fails because the disk is full or damaged. Such an error
    gets the name too. What the block reads from elsewhere has its own name. Temporary names are put
    into the list.
    """
    temporaries: list[Path] = []
    try:
        yield temporaries
    except OSError as error:
        name, final = error.filename, None
        if name is None and error.errno in _NOT_WRITTEN:
            final = path
        elif isinstance(name, str | os.PathLike):
            place = Path(name)
            below = next((one for one in temporaries if place.is_relative_to(one)), None)
            if below is not None:
                final = path / place.relative_to(below)
            elif is_temporary_of(place, path):  # it could not be created
                final = path
        if final is None:
            raise
        raise OSError(error.errno, error.strerror, str(final)) from error


@contextlib.contextmanager
def names_file(path: str | os.PathLike[str]) -> Iterator[None]:
    """Put a file's name in an OSError of the block that names none, as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(path)
        raise


def write_durably(path: Path, content: bytes) -> None:
    """Create or replace a file as a whole, and flush its content to the disk.

    Raises:
        OSError: the file cannot be written; names `path`.
    """
    try:
        with replaced_atomically(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextlib.contextmanager
def directory_replaced_atomically(path: Path, previous: Path | None = None) -> Iterator[Path]:
    """A temporary directory next to `path`, renamed to it when the block ends without an exception.

    Its files are on the disk before it is renamed.

    Args:
        path: The directory to create. Without `previous` it must be empty or not exist.
        previous: Where an existing directory is moved first, and then removed. A process that is
            killed between the two renames leaves it there.

    Raises:
        OSError: the directory or a file in it cannot be written; names it by its final name.
    """
    with _named(path) as named, temporary_directory(path) as temporary:
        named.append(temporary)
        yield temporary
        _flush_all(temporary)
        if previous is not None and path.exists():
            path.rename(previous)
            try:
                temporary.rename(path)
            except OSError:
                previous.rename(path)
                raise
        else:
            temporary.rename(path)
        flush(path.parent)
        if previous is not None:
            remove(previous)


def flush(path: Path) -> None:
    """Wait until the content of a file, or the names in a directory, are on the disk.

    Raises:
        OSError: they cannot be written; names it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        return  # a directory in which this user may write, but not list names
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)


def _flush_all(directory: Path) -> None:
    """Flush all files and directories in a directory, and its own names."""
    for folder, _, names in os.walk(directory):
        for name in names:
            if not os.path.islink(os.path.join(folder, name)):
                flush(Path(folder, name))
        flush(Path(folder))


class FolderLock(contextlib.AbstractContextManager[None]):
    """A lock on a folder, held until the block ends or the process does."""

    # Descriptors of the locks that this process holds. A child of a fork closes its copies:
    # otherwise, the workers of a killed process would hold its locks.
    _held: ClassVar[set[int]] = set()

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._held.add(descriptor)

    def __exit__(self, *_: object) -> None:
        if self._descriptor in self._held:
            self._held.remove(self._descriptor)
            os.close(self._descriptor)

    @classmethod
    def close_copies(cls) -> None:
        """Close the locks that a forked process inherited; its parent still holds them."""
        while cls._held:
            os.close(cls._held.pop())


os.register_at_fork(after_in_child=FolderLock.close_copies)


def lock_folder(folder: Path) -> FolderLock:
    """Create a folder if it does not exist, and lock it for this process.

    Raises:
        BlockingIOError: another run holds the lock.
        OSError: the folder cannot be created.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError as error:
        # Some network file systems have no locks.
        logger.warning("%s cannot be locked: %s", folder, first_line(error))
    return FolderLock(descriptor)


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    with names_file(file), file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def identity_of(file: Path) -> str:
    """A digest that changes when a file is written or replaced, without reading the file.

    It contains the inode's change time, which programs cannot set back.

    Raises:
        OSError: the file does not exist.
    """
    state = file.stat()
    parts = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino, state.st_dev]
    return hashlib.sha256(f"{file.resolve()}\0{parts}".encode(errors="surrogateescape")).hexdigest()
