"""Tar files as WebDataset makes them: `0001.jpg` with `0001.txt` or `0001.json`.

A sample is all members of one path up to the last dot of their name: `a.b.jpg` and `a.b.txt`.
"""

from __future__ import annotations

import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._encoding import decode_names
from .._text import first_line
from ..errors import DatasetError, Where
from .images import MAX_FILE
from .names import with_slashes
from .rows import IMAGE_SUFFIXES, ProblemKind, Problems

TAR_SUFFIX = ".tar"
# Of members' names, whatever the locale is.
_NAMES: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape"}
_TEXTS = frozenset({"txt", "json"})
_MAX_TEXT = 1 << 20
# The path of a member up to the last dot, and its suffix; no hidden file.
_NAME = re.compile(r"((?:.*/)?[^./][^/]*)\.([^./]*)", re.DOTALL)
_COMPRESSED = re.compile(r"\.(tar\.\w+|tgz|tbz2?|txz)$", re.IGNORECASE)
# The first bytes of files that gzip, bzip2, xz and zstd write.
_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_BLOCK = 512


@dataclass(slots=True)
class Sample:
    """The members of a sample."""

    image: tuple[int, int] | None = None  # the offset and the size
    texts: dict[str, bytes] | None = None  # the contents by "txt" and "json"


def is_compressed(path: str) -> bool:
    """Whether a path is that of a compressed tar file, by its name."""
    return _COMPRESSED.search(path) is not None


def refuse_compressed(*paths: Path) -> None:
    """Raise a DatasetError if one of the paths is a compressed tar file."""
    for path in paths:
        if is_compressed(path.name):
            raise _compressed(path)


def _compressed(path: Path) -> DatasetError:
    reason = "compressed, so that single images cannot be read; unpack it to a .tar"
    return DatasetError(reason, file=path)


def read_tar(
    path: Path, name: str, problems: Problems, *, texts: bool, encoding: str | None = None
) -> dict[str, Sample]:
    """The samples of a tar file by their names, incomplete ones included.

    Without `texts`, members that are not images are ignored. Names are in the given encoding, by
    default in UTF-8 or else in GB18030, where all of them can be.

    Raises:
        DatasetError: the file is compressed, or the encoding is unknown.
    """
    samples: dict[str, Sample] = {}
    end = 0
    try:
        with path.open("rb") as file:
            if file.read(6).startswith(_MAGIC):
                raise _compressed(path)
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:", **_NAMES) as tar:
                # tarfile would keep every member in memory.
                while (member := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]
                    end = tar.offset
                    _add_member(member, file.fileno() if texts else None, name, samples, problems)
                end = tar.offset
            # tarfile takes a damaged header for the end.
            if os.pread(file.fileno(), _BLOCK, end).strip(b"\0"):
                reason = f"damaged at byte {end}; the rest of the file was skipped"
                problems.add(ProblemKind.DAMAGED, Where(file=name), reason)
    # A damaged header may have a size that no offset can be.
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        reason = f"damaged at byte {end}: {first_line(error)}"
        problems.add(ProblemKind.DAMAGED, Where(file=name), reason)
    return _named(samples, name, encoding)


def _named(samples: dict[str, Sample], name: str, encoding: str | None) -> dict[str, Sample]:
    """The samples by their decoded names."""
    try:
        names = decode_names((key.encode("utf-8", "surrogateescape") for key in samples), encoding)
    except UnicodeError as error:
        raise DatasetError(first_line(error), file=name) from error
    return samples if names is None else dict(zip(names, samples.values(), strict=True))


def read_images(
    path: Path, name: str, problems: Problems, encoding: str | None = None
) -> Iterator[tuple[str, bytes]]:
    """The images of a compressed tar file, one after another: the name of the sample, the bytes.

    Raises:
        DatasetError: the file is compressed with zstd or damaged, or the encoding is unknown.
    """
    try:
        with tarfile.open(path, mode="r|*", **_NAMES) as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]
                parts = _NAME.fullmatch(with_slashes(member.name))
                if parts is None or not member.isreg() or member.issparse():
                    continue
                if f".{parts[2].lower()}" not in IMAGE_SUFFIXES:
                    continue
                (key,) = _named({parts[1]: Sample()}, name, encoding)
                if member.size > MAX_FILE:
                    where = Where(file=name, member=key)
                    reason = f"a file of more than {MAX_FILE} bytes"
                    problems.add(ProblemKind.BAD_VALUE, where, reason)
                elif (content := tar.extractfile(member)) is not None:
                    yield key, content.read()
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError, ValueError) as error:
        problems.add(ProblemKind.DAMAGED, Where(file=name), f"damaged: {first_line(error)}")


def _add_member(
    member: tarfile.TarInfo,
    descriptor: int | None,
    name: str,
    samples: dict[str, Sample],
    problems: Problems,
) -> None:
    parts = _NAME.fullmatch(with_slashes(member.name))
    if parts is None or not member.isreg() or member.issparse():
        return
    key, suffix = parts[1], parts[2].lower()
    is_image = f".{suffix}" in IMAGE_SUFFIXES
    if not is_image and (descriptor is None or suffix not in _TEXTS):
        return
    where = Where(file=name, member=member.name)
    if member.size > MAX_FILE:
        problems.add(ProblemKind.BAD_VALUE, where, f"a file of more than {MAX_FILE} bytes")
        return
    sample = samples.setdefault(key, Sample())
    if is_image:
        if sample.image is None:
            sample.image = (member.offset_data, member.size)
        else:
            problems.add(ProblemKind.DUPLICATE, where, f"{key} already has another image")
    elif descriptor is not None:
        content = _read_text(member, descriptor, where, problems)
        if content is not None:
            sample.texts = sample.texts or {}
            if sample.texts.setdefault(suffix, content) is not content:
                problems.add(ProblemKind.DUPLICATE, where, f"{key} already has another .{suffix}")


def _read_text(
    member: tarfile.TarInfo, descriptor: int, where: Where, problems: Problems
) -> bytes | None:
    if member.size > _MAX_TEXT:
        problems.add(ProblemKind.BAD_VALUE, where, f"a text of {member.size} bytes")
        return None
    content = os.pread(descriptor, member.size, member.offset_data)
    if len(content) < member.size:
        problems.add(ProblemKind.DAMAGED, where, "the file ends in the middle of it")
        return None
    return content
