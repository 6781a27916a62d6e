"""TSV files of images as Chinese-CLIP has them: an id, TAB and an image file in base64 per line."""

from __future__ import annotations

import base64
import binascii
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .._text import first_line
from ..errors import DatasetError, ImageError, Where
from .images import Slices
from .rows import Id, ProblemKind, Problems, id_of
from .tables import Line, read_lines

TSV_SUFFIX = "_imgs.tsv"
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_"
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def read_tsv(file: IO[bytes], name: str, problems: Problems) -> Iterator[tuple[Line, Id, bytes]]:
    """The lines of a file that have an image: the line, the id and the base64.

    Lines are bytes of the file itself, which images are read from later: its encoding must be an
    extension of ASCII.

    Raises:
        DatasetError: the file begins with the byte order mark of UTF-16.
    """
    seen: set[Id] = set()
    for line in read_lines(file, name, problems):
        if line.number == 1 and line.content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
            raise DatasetError("is UTF-16; save it as UTF-8", file=name)
        row = _read_line(line, name, problems)
        if row is None:
            continue
        if row[0] in seen:
            where = Where(file=name, line=line.number)
            problems.add(ProblemKind.DUPLICATE, where, f"duplicate image id {row[0]}")
            continue
        seen.add(row[0])
        yield line, *row


def _read_line(line: Line, name: str, problems: Problems) -> tuple[Id, bytes] | None:
    """The id and the base64 of a line; None if it has none, after a problem was added."""
    where = Where(file=name, line=line.number)
    fields = line.content.strip().split(b"\t")
    if len(fields) != 2:
        reason = f"expected an id, TAB and base64, found {len(fields)} columns"
        problems.add(ProblemKind.DAMAGED, where, reason)
        return None
    image_id = id_of(fields[0].decode("utf-8", "replace"))
    if image_id is None:
        problems.add(ProblemKind.BAD_VALUE, where, "the image has no id")
        return None
    if not _is_clean_base64(fields[1]):
        try:
            decode_base64(fields[1])
        except binascii.Error as error:
            reason = f"image {image_id}: not base64: {first_line(error)}"
            problems.add(ProblemKind.DAMAGED, where, reason)
            return None
    return image_id, fields[1]


def _is_clean_base64(text: bytes) -> bool:
    """Whether it can surely be decoded: found out many times faster than by decoding it."""
    data = text.rstrip(b"=")
    return len(text) % 4 == 0 and len(text) - len(data) <= 2 and not data.translate(None, _ALPHABET)


def decode_base64(text: bytes) -> bytes:
    """The bytes that base64 encodes, of the usual alphabet or the one for URLs.

    Raises:
        binascii.Error: it is damaged.
    """
    return base64.b64decode(text.strip().translate(_URL_SAFE), validate=True)


class TsvImages(Slices):
    """Images with random access, by the offsets of their lines."""

    @classmethod
    def of(
        cls, file: IO[bytes], name: str, problems: Problems, path: Path, start: int = 0
    ) -> TsvImages:
        """The images of an open file, which is read once; nothing is decoded.

        `path` is that file, or the zip in which the file begins at the offset `start`.
        """
        images = cls([path], [name])
        for line, image_id, _ in read_tsv(file, name, problems):
            images.add(image_id, start + line.start, len(line.content), line=line.number)
        return images

    def content(self, number: int) -> bytes:
        """The image file's bytes."""
        line = super().content(number)
        try:
            return decode_base64(line.strip().split(b"\t")[1])
        except (binascii.Error, IndexError) as error:
            raise ImageError("its line has changed since the file was opened") from error
