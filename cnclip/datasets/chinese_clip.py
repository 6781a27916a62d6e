"""Chinese-CLIP's layouts: `{split}_imgs.tsv` and `{split}_texts.jsonl`, and the LMDB made of them.

The two files are in a folder or in a zip. A line of the first is an id, TAB and an image file in
base64, of the second `{"text_id": 8428, "text": "高级感托特包", "image_ids": [1076345, 517602]}`.

In `lmdb/{split}/imgs`, keys are ids of images, values base64; in `lmdb/{split}/pairs`, values are
pickled tuples (image_id, text_id, text). The pairs lack the texts without images, so that texts are
read from `{split}_texts.jsonl` where it exists.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from .._files import ZIP_ERRORS, open_file
from .._text import first_line, value_text
from ..errors import DatasetError, Where
from ..sources.images import ImageRef, ImageStore
from ..sources.lmdb_files import LmdbImages, read_pairs
from ..sources.rows import Id, ProblemKind, Problems, id_of
from ..sources.tables import TextFormat, open_text, read_objects
from ..sources.tsv_files import TSV_SUFFIX, TsvImages, decode_base64, read_tsv
from ..sources.zip_files import open_zip, stored_at, visible_members
from .retrieval import ImageRow, RetrievalData, TextRow, wrong_text

TEXTS = "_texts.jsonl"
_BUFFER = 1 << 20


class TsvData(RetrievalData):
    """A split of TSV and JSON Lines files."""

    @staticmethod
    def splits(place: Path) -> list[str]:
        """The splits in a folder or zip."""
        if place.is_dir():
            names = [path.name for path in place.iterdir()]
        else:
            with open_zip(place) as archive:
                names = [_base(member.filename) for member in visible_members(archive)]
        found = {name.removesuffix(TEXTS) for name in names if name.endswith(TEXTS)}
        return sorted(split for split in found if split and split + TSV_SUFFIX in names)

    def texts(self, problems: Problems) -> Iterator[TextRow]:
        """The texts of `{split}_texts.jsonl`."""
        with self._open(TEXTS) as (file, _):
            yield from read_texts(file, self.split + TEXTS, problems, self.encoding)

    def images(self, problems: Problems) -> Iterator[ImageRow]:
        """The images of `{split}_imgs.tsv`. If it is compressed, each is read here."""
        with self._open(TSV_SUFFIX) as (file, member):
            if member is None or member.compress_type == zipfile.ZIP_STORED:
                yield from super().images(problems)
                return
            name = self.split + TSV_SUFFIX
            for line, image_id, text in read_tsv(file, name, problems):
                image = ImageRef(decode_base64(text))
                yield ImageRow(image_id, image, Where(file=name, line=line.number))

    def locate(self, problems: Problems) -> ImageStore:
        """The images by their lines' offsets: one pass over the file, which decodes nothing.

        Raises:
            DatasetError: the file is compressed in a zip.
        """
        name = self.split + TSV_SUFFIX
        with self._open(TSV_SUFFIX) as (file, member):
            if member is None:
                return TsvImages.of(file, name, problems, self._place / name)
            start = stored_at(self._place, member)
            return TsvImages.of(file, name, problems, self._place, start)

    def files(self) -> list[Path]:
        """The two files, or the zip."""
        if not self._place.is_dir():
            return [self._place]
        return [self._place / (self.split + suffix) for suffix in (TSV_SUFFIX, TEXTS)]

    @contextlib.contextmanager
    def _open(self, suffix: str) -> Iterator[tuple[IO[bytes], zipfile.ZipInfo | None]]:
        """One of the files, and the member of the zip that it is."""
        wanted = self.split + suffix
        try:
            if self._place.is_dir():
                with open_file(self._place / wanted, _BUFFER) as file:
                    yield file, None
                return
            with open_zip(self._place) as archive:
                member = self._member(archive, wanted)
                with (
                    archive.open(member) as raw,
                    # The member's own readline is slow; that of a reader around it is not.
                    io.BufferedReader(raw, _BUFFER) as buffered,  # type: ignore[type-var]
                ):
                    yield buffered, member
        except DatasetError:
            raise
        except (OSError, *ZIP_ERRORS) as error:
            reason = f"{wanted} cannot be read: {first_line(error)}"
            raise DatasetError(reason, file=self._place) from error

    def _member(self, archive: zipfile.ZipFile, wanted: str) -> zipfile.ZipInfo:
        visible = visible_members(archive, self.encoding)
        members = [member for member in visible if _base(member.filename) == wanted]
        if len(members) > 1:
            names = " and ".join(member.filename for member in members)
            raise DatasetError(f"has {names}", file=self._place)
        return members[0]


def is_half(place: Path) -> bool:
    """Whether this is one of the two files of a split."""
    ends = [end for end in (TSV_SUFFIX, TEXTS) if place.name.endswith(end)]
    return any(place.name.removesuffix(end) in TsvData.splits(place.parent) for end in ends)


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def read_texts(
    file: IO[bytes], name: str, problems: Problems, encoding: str | None = None
) -> Iterator[TextRow]:
    """The texts of a `_texts.jsonl`, see `open_text`."""
    seen: set[Id] = set()
    text_file = open_text(file, name, problems, TextFormat(encoding))
    for line, value in read_objects(text_file, name, problems):
        where = Where(file=name, line=line)
        text = parse_text(value, where, problems)
        if text is None:
            continue
        if text.text_id in seen:
            problems.add(ProblemKind.DUPLICATE, where, f"duplicate text id {text.text_id}")
            continue
        seen.add(text.text_id)
        yield text


def parse_text(value: dict[str, Any], where: Where, problems: Problems) -> TextRow | None:
    """The text of a line's object; None if it has none, after a problem was added."""
    text_id, text, image_ids = (value.get(key) for key in ("text_id", "text", "image_ids"))
    kind, reason = ProblemKind.BAD_VALUE, None
    if (known := id_of(text_id)) is None:
        reason = f"text_id: expected an integer or a name, found {value_text(text_id)}"
    elif wrong := wrong_text(text, f"text {known}"):
        kind, reason = wrong
    elif not isinstance(image_ids, list):
        reason = f"image_ids: expected a list, found {value_text(image_ids)}"
    else:
        ids = {id_of(value): value for value in image_ids}
        if None in ids:
            reason = f"image_ids: expected integers or names, found {value_text(ids[None])}"
        else:
            if len(ids) < len(image_ids):
                reason = "image_ids: names an image twice"
                problems.add(ProblemKind.DUPLICATE, where, reason, skipped=False)
            return TextRow(known, str(text), tuple(one for one in ids if one is not None), where)
    problems.add(kind, where, reason)
    return None


def is_lmdb_split(place: Path) -> bool:
    """Whether this is the folder of a split's databases, as cn_clip's options name a data set."""
    return (place / "imgs" / "data.mdb").is_file()


def _lmdb_home(place: Path) -> Path:
    """The folder of the splits' folders."""
    if is_lmdb_split(place):
        return Path(os.path.abspath(place)).parent
    inner = place / "lmdb"
    return inner if inner.is_dir() else place


class LmdbData(RetrievalData):
    """A split of databases."""

    @staticmethod
    def splits(place: Path) -> list[str]:
        """The splits in a folder of databases."""
        if is_lmdb_split(place):
            return [place.name]
        return sorted(path.name for path in _lmdb_home(place).glob("*") if is_lmdb_split(path))

    def __init__(self, place: Path, name: str, split: str, encoding: str | None = None) -> None:
        super().__init__(place, name, split, encoding)
        home = _lmdb_home(place)
        self._images, self._pairs = home / split / "imgs", home / split / "pairs"
        self._texts = home.parent / (split + TEXTS)

    def texts(self, problems: Problems) -> Iterator[TextRow]:
        """The texts of the JSON Lines file, or of the pairs."""
        if self._texts.is_file():
            with open_file(self._texts) as file:
                yield from read_texts(file, self._texts.name, problems, self.encoding)
            return
        texts: dict[Id, str] = {}
        images: dict[Id, dict[Id, None]] = {}
        name = f"{self.split}/pairs"
        for where, image_id, text_id, text in read_pairs(self._pairs, name, problems):
            if wrong := wrong_text(text, f"text {text_id}"):
                problems.add(wrong[0], where, wrong[1])
            elif texts.setdefault(text_id, text) != text:
                reason = f"text {text_id} has other words in another pair"
                problems.add(ProblemKind.DUPLICATE, where, reason)
            else:
                images.setdefault(text_id, {})[image_id] = None
        for text_id, text in texts.items():
            yield TextRow(text_id, text, tuple(images[text_id]), Where(file=name))

    def locate(self, problems: Problems) -> ImageStore:
        """The images, in the order of their keys."""
        return LmdbImages(self._images, f"{self.split}/imgs", problems)

    def files(self) -> list[Path]:
        """The databases' files."""
        texts = self._texts if self._texts.is_file() else self._pairs / "data.mdb"
        return [self._images / "data.mdb", texts]


def write_split(
    directory: str | Path,
    split: str,
    images: Iterable[tuple[Id, bytes]],
    texts: Iterable[tuple[Id, str, Iterable[Id]]],
) -> None:
    """Write a split as TSV and JSON Lines files.

    Args:
        directory: The data set's folder, created if it does not exist.
        split: The split's name.
        images: (id, bytes of an image file) of each.
        texts: (id, text, ids of the images that it describes) of each.

    Raises:
        OSError: a file cannot be written.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / (split + TSV_SUFFIX)).open("wb") as file:
        for image_id, content in images:
            file.write(f"{image_id}\t".encode() + base64.b64encode(content) + b"\n")
    with (folder / (split + TEXTS)).open("w", encoding="utf-8", newline="\n") as lines:
        for text_id, text, image_ids in texts:
            row = {"text_id": text_id, "text": text, "image_ids": list(image_ids)}
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
