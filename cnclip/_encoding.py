"""The encoding of text files: decided once for all that reads them. Imports nothing of the package.

A file is looked at as a whole before any of its lines is used. A byte order mark decides first;
then NUL bytes, which only UTF-16 and UTF-32 have; then strict UTF-8; then GB18030, in which Excel
and Notepad save texts in China, where all of the file decodes.
"""

from __future__ import annotations

import codecs
import errno
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from ._files import open_file, read_at_most

UTF8 = "utf-8"
GB18030 = "gb18030"
# The first mark that fits counts: that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, UTF8),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (b"\x84\x31\x95\x33", GB18030),
)
_WIDE = tuple(name for _, name in _MARKS if name.startswith(("utf-16", "utf-32")))
_CHUNK = 1 << 20
# Chunks of zeros in a row: more are no damaged lines, but a sparse file, which may have terabytes.
_MAX_ZERO_CHUNKS = 64
# Of a file that is in memory as a whole: settings, names of classes, queries.
MAX_TEXT = 64 << 20
# What is looked at to tell UTF-16 from UTF-8 with NUL bytes.
_SAMPLE = 1 << 16
# Chinese characters and others of three or four bytes in UTF-8: rare by chance in GB18030.
_CHINESE = re.compile(rb"[\xe1-\xef][\x80-\xbf]{2}|\xf0[\x90-\xbf][\x80-\xbf]{2}")
_ASCII = bytes(range(128))
_ESCAPE = "cnclip.escape"
# Categories of characters that a text file does not have: control, surrogate, unassigned, private.
_UNUSUAL = ("Cc", "Cs", "Cn", "Co")


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Bytes that cannot be decoded become lone surrogates, and with them invalid UTF-8."""
    assert isinstance(error, UnicodeDecodeError)
    return "\udcff" * (error.end - error.start), error.end


codecs.register_error(_ESCAPE, _escape)


class Encoding(NamedTuple):
    """The encoding of a file.

    Attributes:
        name: Its name in Python.
        mark: The bytes of the byte order mark.
        remark: For the user, if the file is not UTF-8.
    """

    name: str = UTF8
    mark: int = 0
    remark: str | None = None


def find_encoding(file: IO[bytes], encoding: str | None = None, *, nul: bool = False) -> Encoding:
    """Find the encoding of a file, and return to its beginning.

    The whole file is read, in chunks: at the speed of the disk, since a file that is not UTF-8 ends
    the fast check early.

    Args:
        file: Seekable, at its beginning.
        encoding: The name of the encoding, if the user has named it.
        nul: NUL bytes separate the entries of the file.

    Returns:
        UTF-8 as well for a file of which lines are damaged, so that only these lines are lost.

    Raises:
        UnicodeError: the encoding is unknown; or the file has NUL bytes and is neither UTF-16 nor
            UTF-32 for certain, or is damaged there, or has a long run of zeros.
    """
    try:
        return _find(file, encoding, nul=nul)
    finally:
        file.seek(0)


def utf8_file(
    file: IO[bytes], encoding: str | None = None, *, nul: bool = False
) -> tuple[IO[bytes], Encoding]:
    """The content of a file in UTF-8, and its encoding.

    Args:
        file: Seekable, at its beginning.
        encoding: As for `find_encoding`.
        nul: As for `find_encoding`.

    Returns:
        The file itself if it is UTF-8, with the byte order mark that it may have. Bytes that
        cannot be decoded are invalid UTF-8 in the result as well.

    Raises:
        UnicodeError: as `find_encoding` raises.
    """
    found = find_encoding(file, encoding, nul=nul)
    if found.name == UTF8:
        return file, found
    file.seek(found.mark)
    return io.BufferedReader(_Recoded(file, found.name), _CHUNK), found


def decode(content: bytes, encoding: str | None = None) -> tuple[str, Encoding]:
    """The text of a whole file, without a byte order mark, and its encoding.

    Raises:
        UnicodeError: it cannot be decoded.
    """
    found = find_encoding(io.BytesIO(content), encoding)
    try:
        return content[found.mark :].decode(found.name), found
    except UnicodeDecodeError as error:
        at = found.mark + error.start
        line = content.count(b"\n", 0, at) + 1
        wrong = "neither UTF-8 nor GB18030" if encoding is None else f"not {encoding}"
        raise UnicodeError(f"{wrong}: byte {at + 1}, line {line}") from error


def read_text(path: Path, encoding: str | None = None) -> tuple[str, Encoding]:
    """The text of a file, without a byte order mark, and its encoding.

    Raises:
        OSError: the file cannot be read, or has more than MAX_TEXT bytes.
        UnicodeError: it cannot be decoded.
    """
    with open_file(path) as file:
        content = read_at_most(file, MAX_TEXT)
    if content is None:
        raise OSError(errno.EFBIG, f"a text file of more than {MAX_TEXT} bytes", str(path))
    return decode(content, encoding)


def decode_names(names: Iterable[bytes], encoding: str | None = None) -> list[str] | None:
    """Names of files in an archive that does not record their encoding.

    Returns:
        The names if all of them are UTF-8, or else GB18030, or in the given encoding. None if they
        are not.
    """
    given = list(names)
    for one in (UTF8, GB18030) if encoding is None else (known_encoding(encoding),):
        try:
            return [name.decode(one) for name in given]
        except UnicodeDecodeError:
            continue
    return None


def known_encoding(name: str) -> str:
    """The name of an encoding as Python has it.

    Raises:
        UnicodeError: there is no such encoding of texts.
    """
    try:
        found = codecs.lookup(name)
        b"a".decode(name, "replace")  # not an encoding of texts, such as base64
    except (LookupError, ValueError) as error:
        raise UnicodeError(f"unknown encoding {name!r:.40}") from error
    return UTF8 if found.name == "utf-8-sig" else found.name


class _Recoded(io.RawIOBase):
    """The rest of a file in UTF-8."""

    def __init__(self, file: IO[bytes], encoding: str) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder(encoding)(_ESCAPE)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            chunk = self._file.read(_CHUNK)
            text = self._decoder.decode(chunk, final=not chunk)
            self._rest = text.encode(UTF8, "surrogateescape")
            if not chunk:
                break
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


def _find(file: IO[bytes], encoding: str | None, *, nul: bool) -> Encoding:
    head = file.read(4)
    mark, of_mark = next((one for one in _MARKS if head.startswith(one[0])), (b"", None))
    if encoding is not None:
        name = known_encoding(encoding)
        _check_zeros(file)
        if name in ("utf-16", "utf-32"):
            fits = of_mark is not None and of_mark.startswith(name)
            name = str(of_mark) if fits else f"{name}-le"
        return Encoding(name, len(mark) if name == of_mark else 0)
    if of_mark == UTF8:
        _check_zeros(file)
        return Encoding(UTF8, len(mark))
    if of_mark is not None:
        file.seek(len(mark))
        if not _decodes(file, of_mark):
            reason = f"begins with the byte order mark of {_shown(of_mark)}, but is damaged"
            raise UnicodeError(reason)
        return _other(of_mark, len(mark), "")
    file.seek(0)
    valid, has_nul = _check_utf8(file)
    has_nul = has_nul and not nul
    if has_nul and (wide := _find_wide(file, valid=valid)) is not None:
        return wide
    if not valid and not has_nul and _is_gb18030(file):
        return _other(GB18030, 0, "not UTF-8; ")
    return Encoding()


def _other(name: str, mark: int, reason: str) -> Encoding:
    hint = f"{reason}read as {_shown(name)}"
    return Encoding(name, mark, hint if mark else f"{hint}; --encoding names another")


def _shown(name: str) -> str:
    return name.upper().replace("-LE", " LE").replace("-BE", " BE")


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    """The rest of a file.

    Raises:
        UnicodeError: it has a long run of zeros.
    """
    zeros = 0
    while chunk := file.read(_CHUNK):
        zeros = zeros + 1 if chunk.count(0) == len(chunk) else 0
        if zeros > _MAX_ZERO_CHUNKS:
            raise UnicodeError(
                f"has more than {_MAX_ZERO_CHUNKS} MB of zeros in a row, as where a download or a "
                "copy has failed"
            )
        yield chunk


def _check_zeros(file: IO[bytes]) -> None:
    """Read the rest of a file whose encoding is known.

    Raises:
        UnicodeError: it has a long run of zeros.
    """
    for _ in _chunks(file):
        pass


def _check_utf8(file: IO[bytes]) -> tuple[bool, bool]:
    """Whether the rest of a file is UTF-8, and whether it has a NUL byte."""
    decoder = codecs.getincrementaldecoder(UTF8)()
    valid, has_nul = True, False
    for chunk in _chunks(file):
        has_nul = has_nul or b"\0" in chunk
        if valid:
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError:
                valid = False
        elif has_nul:
            return valid, has_nul
    try:
        decoder.decode(b"", final=valid)
    except UnicodeDecodeError:
        valid = False
    return valid, has_nul


def _decodes(file: IO[bytes], encoding: str) -> bool:
    """Whether the rest of a file has no fault in an encoding."""
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for chunk in _chunks(file):
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _find_wide(file: IO[bytes], *, valid: bool) -> Encoding | None:
    """The encoding of a file with NUL bytes and without a mark; None if it is UTF-8.

    Texts in UTF-8 may have a NUL byte by mistake. They are not taken for UTF-16 if they have other
    characters than ASCII, nor if few bytes are NUL.
    """
    file.seek(0)
    sample = file.read(_SAMPLE)
    if valid and (not sample.isascii() or 3 * sample.count(0) < len(sample)):
        return None
    # NUL bytes are halves of ASCII characters: in the wrong order, there are fewer of these.
    found = sorted(((_count_ascii(sample, name), name) for name in _WIDE), reverse=True)
    if found[0][0] > found[1][0]:
        file.seek(0)
        if _decodes(file, found[0][1]):
            return _other(found[0][1], 0, "has no byte order mark; ")
    if valid:
        return None
    raise UnicodeError(
        "has NUL bytes, and is neither UTF-8 nor for certain UTF-16 or UTF-32; --encoding names it"
    )


def _count_ascii(sample: bytes, encoding: str) -> int:
    """The number of ASCII characters of bytes in an encoding.

    0 if they are not text: with control characters, or with characters without a meaning.
    """
    width = 2 if "16" in encoding else 4
    if len(sample) < _SAMPLE and len(sample) % width:
        return 0
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeDecodeError:
        return 0
    if any(c not in "\t\r\n" and unicodedata.category(c) in _UNUSUAL for c in set(text)):
        return 0
    return sum(map(str.isascii, text))


def _is_gb18030(file: IO[bytes]) -> bool:
    """Whether a file that is not UTF-8 is GB18030, rather than UTF-8 with a few damaged bytes."""
    file.seek(0)
    decoder = codecs.getincrementaldecoder(GB18030)()
    others = chinese = 0  # bytes that are not ASCII, and those of Chinese characters in UTF-8
    try:
        for chunk in _chunks(file):
            decoder.decode(chunk)
            others += len(chunk.translate(None, _ASCII))
            chinese += len(chunk) - len(_CHINESE.sub(b"", chunk))
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return 2 * chinese <= others
