"""Tar files as WebDataset makes them: `0001.jpg` with `0001.txt` or `0001.json`.

A sample is all members of one path up to the last dot of their name: `a.b.jpg` and `a.b.txt`.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

from .._encoding import decode_names
from .._files import MAX_DICTIONARY, open_file
from .._text import first_line, is_utf8
from ..errors import DatasetError, Where
from ..preprocessors.formats import HEAD, RAW_SUFFIXES
from ..preprocessors.image import MAX_FILE
from .image_names import ImageNames
from .images import read_head
from .names import with_slashes
from .parquet_files import pyarrow_modules
from .rows import ProblemKind, Problems

TAR_SUFFIX = ".tar"
_TEXTS = frozenset({".txt", ".json"})
_MAX_TEXT = 1 << 20
# Images of one name that wait for its texts.
_MAX_IMAGES = 8
_COMPRESSED = re.compile(r"\.(tar\.\w+|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)
# The first bytes of files that gzip, bzip2, xz and zstd write. The first name of a tar may begin
# with `BZh`; pzstd begins with a frame to skip.
_GZIP, _XZ = b"\x1f\x8b\x08", b"\xfd7zXZ"
_BZIP2 = re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)")
_ZSTD = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")
_MAGIC_BYTES = 10
# Of the older format of LZMA, which has no signature: usual properties, and the dictionary's size.
_LZMA = b"\x5d\0\0"
# Of xz, without its dictionary.
_MORE_MEMORY = 16 << 20
_BLOCK = 512
# Headers with long names and attributes of the next member, which tarfile reads as a whole, and
# their limit: a compressed file of a few kB would otherwise take gigabytes.
_LONG_HEADERS = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
_MAX_HEADER = 1 << 20
_CONTINUED = 504  # of a block of a sparse file's parts: whether another one follows
# Those of a damaged or hostile file. A size may be one that no offset can be; headers that follow
# one another are read recursively.
_TAR_ERRORS = (
    *(tarfile.TarError, EOFError, zlib.error, lzma.LZMAError),
    *(OSError, ValueError, OverflowError, RecursionError),
)


class _Member(tarfile.TarInfo):
    """A member whose header has at most `_MAX_HEADER` bytes.

    The parts of sparse files, which are not read, are not kept.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        member = super().frombuf(buf, encoding, errors)
        if member.type in _LONG_HEADERS and member.size > _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {member.size} bytes")
        return member

    # tarfile calls these to make lists of the parts, of any length: in headers of GNU tar's former
    # format, and in the content of the latest one, which is skipped as that of any member.
    def _proc_sparse(self, tar: tarfile.TarFile) -> _Member:
        _, is_continued, size = self._sparse_structs  # type: ignore[attr-defined]
        while is_continued:
            block = tar.fileobj.read(_BLOCK)
            if len(block) < _BLOCK:
                raise tarfile.ReadError("the file ends in a header")
            is_continued = block[_CONTINUED]
        self.offset_data = tar.fileobj.tell()
        tar.offset = self.offset_data + self._block(self.size)  # type: ignore[attr-defined]
        self.size, self.sparse = size, b""
        return self

    def _proc_gnusparse_10(self, member: _Member, *_: object) -> None:
        member.sparse = b""


# Names are UTF-8 whatever the locale is.
_HOW: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape", "tarinfo": _Member}


@dataclass(slots=True)
class Sample:
    """The members of a sample."""

    image: tuple[int, int] | None = None  # the offset and the size
    suffix: str = ""  # of the image
    texts: dict[str, bytes] | None = None  # the contents by "txt" and "json"

    def add_text(self, suffix: str, content: bytes) -> bool:
        """Add the content of a `.txt` or `.json`, unless there is one of this suffix already."""
        self.texts = self.texts or {}
        return self.texts.setdefault(suffix[1:], content) is content


def is_compressed(path: str) -> bool:
    """Whether a path is that of a compressed tar file, by its name."""
    return _COMPRESSED.search(path) is not None


def has_compressed_content(path: str) -> bool:
    """Whether a file begins as compressed files do, whatever its name is."""
    return _is_magic(read_head(path))


def _is_magic(head: bytes) -> bool:
    return head.startswith((_GZIP, _XZ)) or any(magic.match(head) for magic in (_BZIP2, _ZSTD))


def refuse_compressed(*paths: Path) -> None:
    """Raise a DatasetError if one of the paths is a compressed tar file."""
    for path in paths:
        if is_compressed(path.name):
            raise _compressed(path)


def _compressed(path: Path) -> DatasetError:
    reason = "compressed, so that single images cannot be read; unpack it to a .tar"
    return DatasetError(reason, file=path)


def read_tar(
    path: Path,
    name: str,
    problems: Problems,
    *,
    texts: bool,
    captions: bool = False,
    encoding: str | None = None,
    names: ImageNames | None = None,
) -> dict[str, Sample]:
    """The samples of a tar file by their names, incomplete ones included.

    Args:
        path: The tar file.
        name: Its name in messages.
        problems: Gets the members that cannot be used.
        texts: Read the texts too, and one image of each sample. Otherwise each image is a sample.
        captions: Read the texts, which samples may lack, without reporting problems of them.
        encoding: The encoding of names, by default UTF-8, or else GB18030 where all can be.
        names: Decides which members are images, and counts the others.

    Raises:
        DatasetError: the file is compressed, or the encoding is unknown.
    """
    names = ImageNames() if names is None else names
    reader = _Reader(name, problems, names, texts=texts, captions=captions, encoding=encoding)
    end = 0
    try:
        with open_file(path) as file:
            if _is_magic(file.read(_MAGIC_BYTES)):
                raise _compressed(path)
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:", **_HOW) as tar:
                # tarfile would keep every member in memory.
                while (member := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]
                    end = tar.offset
                    reader.add(member, file.fileno())
                end = tar.offset
            # tarfile takes a damaged header for the end.
            if os.pread(file.fileno(), _BLOCK, end).strip(b"\0"):
                reason = f"damaged at byte {end}; the rest of the file was skipped"
                problems.add(ProblemKind.DAMAGED, Where(file=name), reason)
    except DatasetError:
        raise
    except _TAR_ERRORS as error:
        reason = f"damaged at byte {end}: {first_line(error)}"
        problems.add(ProblemKind.DAMAGED, Where(file=name), reason)
    return _named(reader.samples, name, encoding)


def _named(samples: dict[str, Sample], name: str, encoding: str | None) -> dict[str, Sample]:
    """The samples by their decoded names."""
    try:
        names = decode_names((key.encode("utf-8", "surrogateescape") for key in samples), encoding)
    except UnicodeError as error:
        raise DatasetError(first_line(error), file=name) from error
    return samples if names is None else dict(zip(names, samples.values(), strict=True))


def read_images(
    path: Path,
    name: str,
    problems: Problems,
    encoding: str | None = None,
    names: ImageNames | None = None,
) -> Iterator[tuple[str, bytes, Sample]]:
    """The images of a compressed tar file, one after another. Texts without one are counted.

    Yields:
        The name of the sample, the bytes of the image, and a sample with its texts, as far as they
        are next to the image.

    Raises:
        DatasetError: the encoding is unknown.
        MissingExtraError: the file is compressed with zstd, and pyarrow is not installed.
    """
    names = ImageNames() if names is None else names
    key, sample, images = "", Sample(), list[bytes]()
    try:
        with open_file(path) as file, _opened(file) as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]
                inner = with_slashes(member.name)
                if not _is_wanted(member, _decoded(inner, encoding), names):
                    continue
                former, (key,) = key, _named({os.path.splitext(inner)[0]: Sample()}, name, encoding)
                if key != former or len(images) == _MAX_IMAGES:
                    yield from _complete(former, sample, images, names)
                    images, sample = [], sample if key == former else Sample()
                where = Where(file=name, member=key)
                content = _next_content(tar, member, sample, where, problems, names)
                if content is not None:
                    images.append(content)
    except _TAR_ERRORS as error:
        problems.add(ProblemKind.DAMAGED, Where(file=name), f"damaged: {first_line(error)}")
    yield from _complete(key, sample, images, names)


def _complete(
    key: str, sample: Sample, images: list[bytes], names: ImageNames
) -> Iterator[tuple[str, bytes, Sample]]:
    """The images of a sample, whose texts are counted if it has none."""
    if not images:
        names.leave_texts(sample.texts or ())
    for content in images:
        yield key, content, sample


def _next_content(
    tar: tarfile.TarFile,
    member: tarfile.TarInfo,
    sample: Sample,
    where: Where,
    problems: Problems,
    names: ImageNames,
) -> bytes | None:
    """The content of a member that is an image; that of a text is added to its sample."""
    suffix = os.path.splitext(member.name)[1].lower()
    opened = tar.extractfile(member)
    if opened is None:
        return None
    if suffix in _TEXTS:
        if member.size <= _MAX_TEXT:
            sample.add_text(suffix, opened.read())
        return None
    if member.size > MAX_FILE:
        reason = f"a file of more than {MAX_FILE} bytes"
        problems.add(ProblemKind.BAD_VALUE, where, reason)
        return None
    head = io.BytesIO(opened.read(HEAD))
    accepted = names.accept(with_slashes(member.name), head.getvalue)
    return head.getvalue() + opened.read() if accepted else None


def _opened(file: IO[bytes]) -> tarfile.TarFile:
    """An open file as a tar file that is read from its beginning to its end."""
    return tarfile.open(fileobj=_decompressed(file), mode="r|", **_HOW)


def _decompressed(file: Any) -> Any:
    """The content of a compressed file, of one stream or several.

    tarfile itself reads the first one only, and no gzip with extra fields, as bgzip writes them.
    What comes before damage is read.
    """
    head = file.peek(_MAGIC_BYTES)
    if head.startswith(_GZIP):
        return SimpleNamespace(read=gzip.GzipFile(fileobj=file).read1)
    if _BZIP2.match(head):
        return _Streams(file, bz2.BZ2Decompressor)
    if head.startswith((_XZ, _LZMA)):
        # Such a file names the memory to take.
        limit = MAX_DICTIONARY + _MORE_MEMORY
        return _Streams(file, partial(lzma.LZMADecompressor, memlimit=limit))
    if _ZSTD.match(head):
        arrow, _ = pyarrow_modules()
        return arrow.CompressedInputStream(file, "zstd")
    return file


class _Streams:
    """The content of a file of bzip2, xz or LZMA.

    Several streams may follow one another, with zeros between them.
    """

    def __init__(self, file: IO[bytes], new_stream: Callable[[], Any]) -> None:
        self._file, self._new_stream = file, new_stream
        self._stream = new_stream()

    def read(self, size: int) -> bytes:
        """The next bytes; none at the end.

        Raises:
            EOFError: the file ends before the data.
            lzma.LZMAError, OSError: they are damaged, or claim too much memory.
        """
        while True:
            if self._stream.eof:
                given = self._stream.unused_data
                while not (given := given.lstrip(b"\0")):
                    if not (given := self._file.read(size)):
                        return b""
                self._stream = self._new_stream()
            else:
                given = self._file.read(size) if self._stream.needs_input else b""
                if self._stream.needs_input and not given:
                    raise EOFError("the file ends in the middle of compressed data")
            content: bytes = self._stream.decompress(given, size)
            if content:
                return content


def _is_wanted(member: tarfile.TarInfo, path: str, names: ImageNames) -> bool:
    """Whether a member is a file that is not excluded. Links and sparse files are counted."""
    is_whole = member.isreg() and not member.issparse()
    is_other = member.issparse() or member.issym() or member.islnk()
    if not (is_whole or is_other) or not list(names.visible([path])):
        return False
    if is_other:
        names.leave_link(path)
    return is_whole


def _decoded(path: str, encoding: str | None) -> str:
    """The path of a member, in which bytes that are not UTF-8 are decoded where they can be."""
    if is_utf8(path) and encoding is None:
        return path
    names = decode_names([path.encode("utf-8", "surrogateescape")], encoding)
    return path if names is None else names[0]


class _Reader:
    """Collects the samples of a tar file.

    Attributes:
        samples: The samples by their names.
    """

    def __init__(
        self,
        name: str,
        problems: Problems,
        names: ImageNames,
        *,
        texts: bool,
        captions: bool,
        encoding: str | None,
    ) -> None:
        self.samples: dict[str, Sample] = {}
        self._encoding = encoding
        self._captions = captions
        self._name, self._problems, self._names, self._texts = name, problems, names, texts

    def add(self, member: tarfile.TarInfo, descriptor: int) -> None:
        """Add a member of the open file."""
        inner = with_slashes(member.name)
        if not _is_wanted(member, _decoded(inner, self._encoding), self._names):
            return
        key, dot = os.path.splitext(inner)
        suffix = dot.lower()
        where = Where(file=self._name, member=member.name)
        if (self._texts or self._captions) and suffix in _TEXTS:
            problems = self._problems if self._texts else Problems()
            sample = self.samples.setdefault(key, Sample())
            content = _read_text(member, descriptor, where, problems)
            if content is not None and not sample.add_text(suffix, content):
                reason = f"{key} already has another {suffix}"
                problems.add(ProblemKind.DUPLICATE, where, reason)
            return

        def read_head() -> bytes:
            return os.pread(descriptor, min(HEAD, member.size), member.offset_data)

        if self._names.accept(inner, read_head):
            self._add_image(key, suffix, member, where)

    def _add_image(self, key: str, suffix: str, member: tarfile.TarInfo, where: Where) -> None:
        if member.size > MAX_FILE:
            reason = f"a file of more than {MAX_FILE} bytes"
            self._problems.add(ProblemKind.BAD_VALUE, where, reason)
            return
        sample = self.samples.setdefault(key, Sample())
        if sample.image is not None and suffix in RAW_SUFFIXES:
            self._names.leave_raw(suffix)
            return
        if sample.suffix in RAW_SUFFIXES:
            self._names.leave_raw(sample.suffix)
        elif sample.image is not None:
            whole = with_slashes(member.name)
            if self._texts or whole in self.samples:
                self._duplicate(where, f"{key} already has another image")
                return
            sample = self.samples.setdefault(whole, Sample())
        sample.image, sample.suffix = (member.offset_data, member.size), suffix

    def _duplicate(self, where: Where, reason: str) -> None:
        self._problems.add(ProblemKind.DUPLICATE, where, reason)


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
