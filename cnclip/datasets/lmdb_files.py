"""The LMDB that cn_clip makes of its layout: `lmdb/{split}/imgs` and `lmdb/{split}/pairs`.

Keys of the first are ids of pictures, values base64; of the second numbers, values pickled tuples
(image_id, text_id, text). Texts are read from `{split}_texts.jsonl` where it lies beside: the pairs
lack those of no picture.
"""

from __future__ import annotations

import binascii
import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DatasetError, MissingExtraError
from .ids import Id, id_of
from .problems import Problems
from .retrieval import PictureRow, RetrievalData, TextRow
from .tsv import TEXTS, decode_base64, read_texts

# Of a pickled pair.
_LARGEST_PAIR = 1 << 20


def splits(place: Path) -> list[str]:
    """The splits that lie here in this layout."""
    return sorted(path.parent.name for path in _home(place).glob("*/imgs") if path.is_dir())


def _home(place: Path) -> Path:
    inner = place / "lmdb"
    return inner if inner.is_dir() else place


class LmdbData(RetrievalData):
    """A split in this layout."""

    def __init__(self, place: Path, name: str, split: str) -> None:
        super().__init__(name, split)
        home = _home(place)
        self._pictures, self._pairs = home / split / "imgs", home / split / "pairs"
        self._texts = home.parent / (split + TEXTS)

    def texts(self, problems: Problems) -> Iterator[TextRow]:
        """The texts of the JSON Lines file, or of the pairs."""
        if self._texts.is_file():
            with self._texts.open("rb") as file:
                yield from read_texts(file, self._texts.name, problems)
            return
        texts: dict[Id, str] = {}
        pictures: dict[Id, list[Id]] = {}
        for key, value in _entries(self._pairs):
            if key == b"num_samples":
                continue
            where = f"{self.split}/pairs:{key.decode('utf-8', 'replace')}"
            pair = _read_pair(value)
            if pair is None:
                problems.add(where, "not a tuple of image_id, text_id and text")
                continue
            image_id, text_id, text = pair
            if not text.strip():
                problems.add(where, f"text {text_id} is empty")
            elif texts.setdefault(text_id, text) != text:
                problems.add(where, f"text {text_id} stands in another pair with other words")
            elif image_id not in pictures.setdefault(text_id, []):
                pictures[text_id].append(image_id)
        for text_id, text in texts.items():
            yield TextRow(text_id, text, tuple(pictures[text_id]), f"{self.split}/pairs")

    def pictures(self, problems: Problems) -> Iterator[PictureRow]:
        """The pictures, in the order of their keys."""
        for key, value in _entries(self._pictures):
            if key == b"num_images":
                continue
            shown = key.decode("utf-8", "replace")
            where, image_id = f"{self.split}/imgs:{shown}", id_of(shown)
            if image_id is None:
                problems.add(where, "the picture has no id")
                continue
            try:
                yield PictureRow(image_id, decode_base64(value), where)
            except binascii.Error as error:
                problems.add(where, f"picture {image_id}: not base64: {error}")

    def files(self) -> list[Path]:
        """The data bases' files."""
        texts = self._texts if self._texts.is_file() else self._pairs / "data.mdb"
        return [self._pictures / "data.mdb", texts]


def _entries(path: Path) -> Iterator[tuple[bytes, bytes]]:
    try:
        import lmdb
    except ImportError as error:
        raise MissingExtraError("lmdb", "lmdb") from error
    try:
        with (
            lmdb.open(
                str(path), readonly=True, lock=False, create=False, readahead=False
            ) as opened,
            opened.begin() as transaction,
        ):
            yield from transaction.cursor()
    except lmdb.Error as error:
        raise DatasetError(f"{path}: not an LMDB, or damaged: {error}") from error


class _PlainUnpickler(pickle.Unpickler):
    """Reads numbers, strings and tuples of them: what a pickle could do beyond that is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("a persistent id")


def _read_pair(value: bytes) -> tuple[Id, Id, str] | None:
    if len(value) > _LARGEST_PAIR:
        return None
    try:
        pair = _PlainUnpickler(io.BytesIO(value)).load()
    except MemoryError:
        raise
    except Exception:  # pickle raises whatever a damaged value leads it to
        return None
    if not isinstance(pair, tuple) or len(pair) != 3:
        return None
    image_id, text_id, text = id_of(pair[0]), id_of(pair[1]), pair[2]
    if image_id is None or text_id is None or not isinstance(text, str):
        return None
    return image_id, text_id, text
