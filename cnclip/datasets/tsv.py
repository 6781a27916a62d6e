"""Chinese-CLIP's own layout: `{split}_imgs.tsv` and `{split}_texts.jsonl`, in a folder or a zip.

A line of the first: id, TAB, a picture file in base64, of either alphabet. Of the second:
`{"text_id": 8428, "text": "高级感托特包斜挎", "image_ids": [1076345, 517602]}`.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from ..errors import DatasetError
from .ids import Id, id_of
from .lines import read_lines, read_objects
from .problems import Problems
from .retrieval import PictureRow, RetrievalData, TextRow

PICTURES, TEXTS = "_imgs.tsv", "_texts.jsonl"
_ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError)
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def splits(place: Path) -> list[str]:
    """The splits that lie here in this layout."""
    if place.is_dir():
        names = [path.name for path in place.iterdir()]
    else:
        with _opened_zip(place) as archive:
            names = [_base(name) for name in archive.namelist() if not _is_junk(name)]
    found = {name.removesuffix(TEXTS) for name in names if name.endswith(TEXTS)}
    return sorted(split for split in found if split and split + PICTURES in names)


class TsvData(RetrievalData):
    """A split in this layout."""

    def __init__(self, place: Path, name: str, split: str) -> None:
        super().__init__(name, split)
        self._place = place

    def texts(self, problems: Problems) -> Iterator[TextRow]:
        """The texts of `{split}_texts.jsonl`."""
        with self._open(TEXTS) as file:
            yield from read_texts(file, self.split + TEXTS, problems)

    def pictures(self, problems: Problems) -> Iterator[PictureRow]:
        """The pictures of `{split}_imgs.tsv`."""
        seen: set[Id] = set()
        with self._open(PICTURES) as file:
            for where, line in read_lines(file, self.split + PICTURES, problems):
                row = _read_picture(where, line, problems)
                if row is None:
                    continue
                if row.image_id in seen:
                    problems.add(where, f"image id {row.image_id} stands above already")
                    continue
                seen.add(row.image_id)
                yield row

    def files(self) -> list[Path]:
        """The two files, or the zip."""
        if not self._place.is_dir():
            return [self._place]
        return [self._place / (self.split + suffix) for suffix in (PICTURES, TEXTS)]

    @contextlib.contextmanager
    def _open(self, suffix: str) -> Iterator[IO[bytes]]:
        wanted = self.split + suffix
        try:
            if self._place.is_dir():
                with (self._place / wanted).open("rb") as file:
                    yield file
                return
            with _opened_zip(self._place) as archive:
                members = [n for n in archive.namelist() if _base(n) == wanted and not _is_junk(n)]
                if len(members) > 1:
                    raise DatasetError(f"{self._place}: holds {' and '.join(members)}")
                with archive.open(members[0]) as file:
                    yield file
        except (OSError, zipfile.BadZipFile, EOFError) as error:
            if isinstance(error, DatasetError):
                raise
            raise DatasetError(f"{self._place}: {wanted} cannot be read: {error}") from error


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
            problems.add(where, "image_ids: names a picture twice", skipped=False)
            return TextRow(known, text, good, where)
        problems.add(where, f"image_ids: expected integers or names, found {wrong!r:.60}")
    return None


def _read_picture(where: str, line: bytes, problems: Problems) -> PictureRow | None:
    fields = line.strip().split(b"\t")
    if len(fields) != 2:
        problems.add(where, f"expected an id, TAB and base64, found {len(fields)} columns")
        return None
    image_id = id_of(fields[0].decode("utf-8", "replace"))
    if image_id is None:
        problems.add(where, "the picture has no id")
        return None
    try:
        content = decode_base64(fields[1])
    except binascii.Error as error:
        problems.add(where, f"picture {image_id}: not base64: {error}")
        return None
    return PictureRow(image_id, content, where)


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
    pictures: Iterable[tuple[Id, bytes]],
    texts: Iterable[tuple[Id, str, Iterable[Id]]],
) -> None:
    """Write a split in Chinese-CLIP's layout.

    Args:
        directory: The data set's folder, made if need be.
        split: The split's name.
        pictures: (id, bytes of a picture file) of each.
        texts: (id, text, ids of the pictures that it describes) of each.

    Raises:
        OSError: a file cannot be written.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / (split + PICTURES)).open("wb") as file:
        for image_id, content in pictures:
            file.write(f"{image_id}\t".encode() + base64.b64encode(content) + b"\n")
    with (folder / (split + TEXTS)).open("w", encoding="utf-8", newline="\n") as lines:
        for text_id, text, image_ids in texts:
            row = {"text_id": text_id, "text": text, "image_ids": list(image_ids)}
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
