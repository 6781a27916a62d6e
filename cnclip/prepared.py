"""The cache of prepared models: weights in the form that runs, mapped into memory.

Preparing a model for the CPU packs its weights, which takes most of the time of opening it. The
first opening of a large archive also writes the result to `$CNCLIP_CACHE/prepared`. Later ones map
that file: they neither read nor pack weights, and processes share one copy in memory.

The name of a file contains a digest of all that its content depends on. A file ends with a CRC-32,
which is compared once, and again after anybody wrote to the file.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from . import _core
from ._files import lock_folder, names_file, replaced_atomically
from ._temporaries import remove, remove_all_temporaries
from ._text import first_line
from .archive import ArchiveInfo, content_digest
from .cache import file_name, private_directory, remembered, remembered_sha256
from .engine.libtorch import find_torch
from .errors import ArchiveError, CnclipError, InvalidInputError
from .version import __version__

logger = logging.getLogger("cnclip")

VARIABLE = "CNCLIP_PREPARED"
SUFFIX = ".prepared"
# Bytes. Archives below are opened in less than a tenth of a second anyway.
_MIN_ARCHIVE = 32 << 20
# Bytes that all files may have; the least recently used are removed.
_MAX_TOTAL = 16 << 30
# A file that was last used longer ago than this many seconds is removed when another version of
# cnclip or torch writes one in its place. Two installed versions that take turns keep theirs.
_KEPT_SECONDS = 3600
# Bytes of a CRC-32, and those that are read at once to compute it.
_CHECKSUM = 4
_CHUNK = 1 << 20


def open_prepared(
    info: ArchiveInfo,
    engine: _core.Engine,
    isa: str,
    precision: str,
    open_file: Callable[[Path, bool], _core.Encoder],
) -> _core.Encoder:
    """Open a model for the CPU, by its file in the cache if there is one. Else try to write it.

    Where the cache cannot be used, the model is opened without it.

    Args:
        info: The archive.
        engine: The engine that runs the model.
        isa: The instruction set that the model uses.
        precision: The precision that it computes in.
        open_file: Opens an archive, or with True as its second argument a file of the cache.

    Raises:
        InvalidInputError: `$CNCLIP_PREPARED` is none of `auto`, `always` and `never`.
        CnclipError: as `open_file` raises it for the archive.
    """
    path = None
    try:
        if _is_wanted(info.path):
            path = private_directory("prepared") / _file_name(info, engine, isa, precision)
            if _is_intact(path):
                return open_file(path, True)
    except (OSError, ArchiveError) as error:
        # A file that is intact, but cannot be used, would be the same if it was written again.
        logger.info("the cache of prepared models cannot be used: %s", first_line(error))
        path = None
    encoder = open_file(info.path, False)
    if path is not None:
        _write(path, encoder, info.path.stat().st_size)
    return encoder


def prepared_files(info: ArchiveInfo) -> list[Path]:
    """The files of an archive in the cache: one per precision, instruction set and version."""
    try:
        return sorted(private_directory("prepared").glob(f"*-{_content(info)}-*{SUFFIX}"))
    except OSError:
        return []


def _is_wanted(archive: Path) -> bool:
    chosen = os.environ.get(VARIABLE) or "auto"
    if chosen not in ("auto", "always", "never"):
        reason = f"expected auto, always or never, got {chosen!r:.100}"
        raise InvalidInputError(reason, item=VARIABLE)
    if chosen == "auto":
        return archive.stat().st_size >= _MIN_ARCHIVE
    return chosen == "always"


def _file_name(info: ArchiveInfo, engine: _core.Engine, isa: str, precision: str) -> str:
    """NAME-CONTENT-PRECISION-ISA-VERSIONS.prepared; the last two are digests."""
    versions = hashlib.sha256()
    for part in (
        __version__,
        find_torch().version,
        platform.machine(),
        # The layout of packed weights, and of the file.
        remembered_sha256(Path(_core.__file__)),
        remembered_sha256(Path(engine.path)),
    ):
        versions.update(f"{part}\n".encode())
    # The archive's own name only helps people who look into the directory.
    name = file_name(info.path.name.partition(".")[0])
    return f"{name}-{_content(info)}-{precision}-{isa}-{versions.hexdigest()[:16]}{SUFFIX}"


def _content(info: ArchiveInfo) -> str:
    return content_digest(info.path)[:32]


def _is_intact(path: Path) -> bool:
    """Whether there is a file with the content that was written."""
    try:
        return remembered(path, "prepared", _state) == "intact"
    except FileNotFoundError:
        return False


def _state(path: Path) -> str:
    with names_file(path), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size - _CHECKSUM
        if size < 0:
            return "damaged"
        is_intact = _checksum(file, size) == file.read()
    return "intact" if is_intact else "damaged"


def _checksum(file: BinaryIO, size: int) -> bytes:
    """The CRC-32 of the next `size` bytes, in the form that ends a file."""
    checksum = 0
    while size > 0 and (chunk := file.read(min(_CHUNK, size))):
        checksum = zlib.crc32(chunk, checksum)
        size -= len(chunk)
    return checksum.to_bytes(_CHECKSUM, "little")


def _write(path: Path, encoder: _core.Encoder, archive_bytes: int) -> None:
    """Write a model's file, unless another process writes one, or the disk is nearly full."""
    folder = path.parent
    try:
        with lock_folder(folder):
            remove_all_temporaries(folder)
            # float16 weights may become float32, and others need space too.
            if shutil.disk_usage(folder).free < 4 * archive_bytes:
                logger.info("%s: the disk is nearly full, so %s is not written", folder, path.name)
                return
            with replaced_atomically(path, mode=0o600) as temporary:
                encoder.save_prepared(temporary)
                with temporary.open("r+b") as file:
                    file.write(_checksum(file, os.fstat(file.fileno()).st_size))
            _remove_others(path)
    except BlockingIOError:
        logger.debug("another process writes to %s", folder)
    except (OSError, CnclipError) as error:
        logger.info("the prepared model cannot be written: %s", first_line(error))


def _remove_others(written: Path) -> None:
    """Remove the files that `written` replaces, and the least recently used beyond the limit."""
    without_versions = written.name.rpartition("-")[0]
    states = {path: path.stat() for path in written.parent.glob(f"*{SUFFIX}")}
    total = sum(state.st_size for state in states.values())
    for path, state in sorted(states.items(), key=lambda item: item[1].st_atime):
        is_replaced = (
            path.name.rpartition("-")[0] == without_versions
            and time.time() - state.st_atime > _KEPT_SECONDS
        )
        if path != written and (is_replaced or total > _MAX_TOTAL):
            remove(path)
            total -= state.st_size
