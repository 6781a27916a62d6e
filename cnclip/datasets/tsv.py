"""Chinese-CLIP's own layout: `{split}_imgs.tsv` and `{split}_texts.jsonl`, in a folder or a zip.

A line of the first: id, TAB, an image file in base64, of either alphabet. Of the second:
`{"text_id": 8428, "text": "高级感托特包斜挎", "image_ids": [1076345, 517602]}`.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import json
import struct
import zipfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DatasetError, ImageError
from .ids import Id, id_of
from .lines import Line, read_lines, read_objects
from .problems import Problems
from .retrieval import ImageRow, RetrievalData, TextRow
from .stores import ImageStore, Slices

IMAGES, TEXTS = "_imgs.tsv", "_texts.jsonl"
_ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError)
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_"
_ENCRYPTED = 1
_BUFFER = 1 << 20
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def splits(place: Path) -> list[str]:
    """The splits that lie here in this layout."""
    if place.is_dir():
        names = [path.name for path in place.iterdir()]
    else:
        with _opened_zip(place) as archive:
            names = [_base(name) for name in archive.namelist() if not _is_junk(name)]
    found = {name.removesuffix(TEXTS) for name in names if name.endswith(TEXTS)}
    return sorted(split for split in found if split and split + IMAGES in names)


def is_half(place: Path) -> bool:
    """Whether this is one of the two files of a split."""
    ends = [end for end in (IMAGES, TEXTS) if place.name.endswith(end)]
    return any(place.name.removesuffix(end) in splits(place.parent) for end in ends)


class TsvData(RetrievalData):
    """A split in this layout."""

    def __init__(self, place: Path, name: str, split: str) -> None:
        super().__init__(name, split)
        self._place = place

    def texts(self, problems: Problems) -> Iterator[TextRow]:
        """The texts of `{split}_texts.jsonl`."""
        with self._open(TEXTS) as file:
            yield from read_texts(file, self.split + TEXTS, problems)

    def images(self, problems: Problems) -> Iterator[ImageRow]:
        """The images of `{split}_imgs.tsv`."""
        for line, image_id, text in self._rows(problems):
            yield ImageRow(image_id, decode_base64(text), line.where)

    def locate(self, problems: Problems) -> ImageStore:
        """The images by their lines' offsets: one pass over the file, which decodes nothing.

        Raises:
            DatasetError: the file is compressed in a zip.
        """
        path, start = self._uncompressed()
        ids: list[Id] = []
        lines = array("q")
        for line, image_id, _ in self._rows(problems):
            ids.append(image_id)
            lines.extend((line.number, start + line.start, len(line.content)))
        return _TsvImages(
            self.split + IMAGES, path, ids, np.frombuffer(lines, np.int64).reshape(-1, 3)
        )

    def files(self) -> list[Path]:
        """The two files, or the zip."""
        if not self._place.is_dir():
            return [self._place]
        return [self._place / (self.split + suffix) for suffix in (IMAGES, TEXTS)]

    def _rows(self, problems: Problems) -> Iterator[tuple[Line, Id, bytes]]:
        """The lines that hold an image: (line, id, base64)."""
        seen: set[Id] = set()
        with self._open(IMAGES) as file:
            for line in read_lines(file, self.split + IMAGES, problems):
                row = _read_image(line, problems)
                if row is None:
                    continue
                if row[0] in seen:
                    problems.add(line.where, f"image id {row[0]} stands above already")
                    continue
                seen.add(row[0])
                yield line, *row

    @contextlib.contextmanager
    def _open(self, suffix: str) -> Iterator[IO[bytes]]:
        wanted = self.split + suffix
        try:
            if self._place.is_dir():
                with (self._place / wanted).open("rb", _BUFFER) as file:
                    yield file
                return
            with (
                _opened_zip(self._place) as archive,
                archive.open(self._member(archive, wanted)) as member,
                # The member's own readline is Python; that of a reader around it is not.
                io.BufferedReader(member, _BUFFER) as file,  # type: ignore[type-var]
            ):
                yield file
        except (OSError, *_ZIP_ERRORS) as error:
            if isinstance(error, DatasetError):
                raise
            raise DatasetError(f"{self._place}: {wanted} cannot be read: {error}") from error

    def _member(self, archive: zipfile.ZipFile, wanted: str) -> zipfile.ZipInfo:
        members = [n for n in archive.namelist() if _base(n) == wanted and not _is_junk(n)]
        if len(members) > 1:
            raise DatasetError(f"{self._place}: holds {' and '.join(members)}")
        return archive.getinfo(members[0])

    def _uncompressed(self) -> tuple[Path, int]:
        """The file in which the images' lines lie as they are, and the offset of the first."""
        if self._place.is_dir():
            return self._place / (self.split + IMAGES), 0
        with _opened_zip(self._place) as archive:
            member = self._member(archive, self.split + IMAGES)
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & _ENCRYPTED:
            raise DatasetError(
                f"{self._place}: {member.filename} is compressed there, so that single images "
                "cannot be read; unpack the zip and give the folder"
            )
        try:
            with self._place.open("rb") as file:
                file.seek(member.header_offset)
                # Lengths of the name and of what follows it stand last in the member's header.
                lengths = struct.unpack("<26x2H", file.read(30))
        except (OSError, struct.error) as error:
            raise DatasetError(f"{self._place}: cannot be read: {error}") from error
        return self._place, member.header_offset + 30 + sum(lengths)


class _TsvImages(ImageStore):
    def __init__(self, name: str, path: Path, ids: list[Id], lines: NDArray[np.int64]) -> None:
        """Take the lines, each (number, offset, length)."""
        self.ids = ids
        self._name = name
        self._numbers = np.ascontiguousarray(lines[:, 0])
        self._lines = Slices(
            [path], np.ascontiguousarray(lines[:, 1]), np.ascontiguousarray(lines[:, 2])
        )

    def content(self, image: int) -> bytes:
        """The image file's bytes."""
        return _read_line(self._lines, image)

    def where(self, image: int) -> str:
        """The file and the line."""
        return f"{self._name}:{self._numbers[image]}"

    def reader(self, image: int) -> Callable[[], bytes]:
        """A function that gives the image file's bytes."""
        return partial(_read_line, self._lines.alone(image), 0)

    def files(self) -> Iterable[Path]:
        """The file, or the zip."""
        return self._lines.files


def _read_line(lines: Slices, number: int) -> bytes:
    """The image of a line."""
    line = lines.read(number)
    try:
        return decode_base64(line.strip().split(b"\t")[1])
    except (binascii.Error, IndexError) as error:
        raise ImageError("its line is another than when the file was opened") from error


def read_texts(file: IO[bytes], name: str, problems: Problems) -> Iterator[TextRow]:
    """The texts of a `_texts.jsonl`."""
    seen: set[Id] = set()
    for where, value in read_objects(file, name, problems):
        text = text_of(value, where, problems)
        if text is None:
            continue
        if text.text_id in seen:
            problems.add(where, f"text_id {text.text_id} stands above already")
            continue
        seen.add(text.text_id)
        yield text


def text_of(value: dict[str, Any], where: str, problems: Problems) -> TextRow | None:
    """The text of a line's object, or None after its fault was named."""
    text_id, text, image_ids = (value.get(key) for key in ("text_id", "text", "image_ids"))
    if (known := id_of(text_id)) is None:
        problems.add(where, f"text_id: expected an integer or a name, found {text_id!r:.60}")
    elif not isinstance(text, str):
        problems.add(where, f"text: expected a string, found {text!r:.60}")
    elif not text.strip():
        problems.add(where, f"text {known} is empty")
    elif not isinstance(image_ids, list):
        problems.add(where, f"image_ids: expected a list, found {image_ids!r:.60}")
    else:
        ids = [id_of(value) for value in image_ids]
        good = tuple(dict.fromkeys(one for one in ids if one is not None))
        if len(good) == len(image_ids):
            return TextRow(known, text, good, where)
        wrong = next((v for v, one in zip(image_ids, ids, strict=True) if one is None), None)
        if wrong is None:
            problems.add(where, "image_ids: names an image twice", skipped=False)
            return TextRow(known, text, good, where)
        problems.add(where, f"image_ids: expected integers or names, found {wrong!r:.60}")
    return None


def _read_image(line: Line, problems: Problems) -> tuple[Id, bytes] | None:
    """The id and the base64 of a line, or None after its fault was named."""
    fields = line.content.strip().split(b"\t")
    if len(fields) != 2:
        problems.add(line.where, f"expected an id, TAB and base64, found {len(fields)} columns")
        return None
    image_id = id_of(fields[0].decode("utf-8", "replace"))
    if image_id is None:
        problems.add(line.where, "the image has no id")
        return None
    if not _is_clean_base64(fields[1]):
        try:
            decode_base64(fields[1])
        except binascii.Error as error:
            problems.add(line.where, f"image {image_id}: not base64: {error}")
            return None
    return image_id, fields[1]


def _is_clean_base64(text: bytes) -> bool:
    """Whether it can surely be decoded: found out many times faster than by decoding it."""
    data = text.rstrip(b"=")
    return len(text) % 4 == 0 and len(text) - len(data) <= 2 and not data.translate(None, _ALPHABET)


def decode_base64(text: bytes) -> bytes:
    """The bytes that base64 stands for, of the usual alphabet or the one for URLs.

    Raises:
        binascii.Error: it is damaged.
    """
    return base64.b64decode(text.strip().translate(_URL_SAFE), validate=True)


@contextlib.contextmanager
def _opened_zip(place: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(place)
    except OSError as error:
        raise DatasetError(f"{place}: cannot be read: {error}") from error
    except _ZIP_ERRORS as error:
        raise DatasetError(f"{place}: neither a folder nor a zip: {error}") from error
    with archive:
        yield archive


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _is_junk(name: str) -> bool:
    """A second entry, which macOS puts beside each."""
    return name.startswith("__MACOSX/") or _base(name).startswith("._")


def write_split(
    directory: str | Path,
    split: str,
    images: Iterable[tuple[Id, bytes]],
    texts: Iterable[tuple[Id, str, Iterable[Id]]],
) -> None:
    """Write a split in Chinese-CLIP's layout.

    Args:
        directory: The data set's folder, made if need be.
        split: The split's name.
        images: (id, bytes of an image file) of each.
        texts: (id, text, ids of the images that it describes) of each.

    Raises:
        OSError: a file cannot be written.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / (split + IMAGES)).open("wb") as file:
        for image_id, content in images:
            file.write(f"{image_id}\t".encode() + base64.b64encode(content) + b"\n")
    with (folder / (split + TEXTS)).open("w", encoding="utf-8", newline="\n") as lines:
        for text_id, text, image_ids in texts:
            row = {"text_id": text_id, "text": text, "image_ids": list(image_ids)}
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
