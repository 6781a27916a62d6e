"""The LMDB that cn_clip makes of its layout: `lmdb/{split}/imgs` and `lmdb/{split}/pairs`.

A split's folder itself, `lmdb/{split}`, is how cn_clip's own options name a data set.

Keys of the first are ids of images, values base64; of the second numbers, values pickled tuples
(image_id, text_id, text). Texts are read from `{split}_texts.jsonl` where it lies beside: the pairs
lack those of no image.
"""

from __future__ import annotations

import binascii
import io
import os
import pickle
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from ..errors import DatasetError, ImageError, MissingExtraError
from .ids import Id, id_of
from .problems import Problems
from .retrieval import ImageRow, RetrievalData, TextRow
from .stores import ImageStore
from .tsv import TEXTS, decode_base64, read_texts

# Of a pickled pair.
_MAX_PAIR = 1 << 20


def splits(place: Path) -> list[str]:
    """The splits that lie here in this layout."""
    if is_split(place):
        return [place.name]
    return sorted(path.name for path in _home(place).glob("*") if is_split(path))


def is_split(place: Path) -> bool:
    """Whether this is the folder of a split's data bases."""
    return (place / "imgs" / "data.mdb").is_file()


def _home(place: Path) -> Path:
    """The folder of the splits' folders."""
    if is_split(place):
        return Path(os.path.abspath(place)).parent
    inner = place / "lmdb"
    return inner if inner.is_dir() else place


class LmdbData(RetrievalData):
    """A split in this layout."""

    def __init__(self, place: Path, name: str, split: str) -> None:
        super().__init__(name, split)
        home = _home(place)
        self._images, self._pairs = home / split / "imgs", home / split / "pairs"
        self._texts = home.parent / (split + TEXTS)

    def texts(self, problems: Problems) -> Iterator[TextRow]:
        """The texts of the JSON Lines file, or of the pairs."""
        if self._texts.is_file():
            with self._texts.open("rb") as file:
                yield from read_texts(file, self._texts.name, problems)
            return
        texts: dict[Id, str] = {}
        images: dict[Id, list[Id]] = {}
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
            elif image_id not in images.setdefault(text_id, []):
                images[text_id].append(image_id)
        for text_id, text in texts.items():
            yield TextRow(text_id, text, tuple(images[text_id]), f"{self.split}/pairs")

    def images(self, problems: Problems) -> Iterator[ImageRow]:
        """The images, in the order of their keys."""
        for key, value in _entries(self._images):
            if key == b"num_images":
                continue
            shown = key.decode("utf-8", "replace")
            where, image_id = f"{self.split}/imgs:{shown}", id_of(shown)
            if image_id is None:
                problems.add(where, "the image has no id")
                continue
            try:
                yield ImageRow(image_id, decode_base64(value), where)
            except binascii.Error as error:
                problems.add(where, f"image {image_id}: not base64: {error}")

    def locate(self, problems: Problems) -> ImageStore:
        """The images by their keys. Whether one is base64 is seen when it is read."""
        ids: list[Id] = []
        other_keys: dict[int, bytes] = {}
        for key, _ in _entries(self._images, values=False):
            if key == b"num_images":
                continue
            shown = key.decode("utf-8", "replace")
            image_id = id_of(shown)
            if image_id is None:
                problems.add(f"{self.split}/imgs:{shown}", "the image has no id")
                continue
            if str(image_id).encode() != key:
                other_keys[len(ids)] = key
            ids.append(image_id)
        return _LmdbImages(self._images, f"{self.split}/imgs", ids, other_keys)

    def files(self) -> list[Path]:
        """The data bases' files."""
        texts = self._texts if self._texts.is_file() else self._pairs / "data.mdb"
        return [self._images / "data.mdb", texts]


class _LmdbImages(ImageStore):
    def __init__(self, path: Path, name: str, ids: list[Id], other_keys: dict[int, bytes]) -> None:
        """Take the images' ids, and the keys of those whose id is spelled otherwise there."""
        self.ids = ids
        self._path, self._name, self._other_keys = path, name, other_keys
        self._database: _Database | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_database": None}

    def content(self, image: int) -> bytes:
        """The image file's bytes."""
        if self._database is None:
            self._database = _database(self._path)
        key = self._other_keys.get(image) or str(self.ids[image]).encode()
        try:
            value = self._database.get(key)
            return decode_base64(value)
        except DatasetError as error:
            raise ImageError(str(error)) from error
        except binascii.Error as error:
            raise ImageError(f"not base64: {error}") from error

    def where(self, image: int) -> str:
        """The data base and the key."""
        return f"{self._name}:{self.ids[image]}"

    def files(self) -> Iterable[Path]:
        """The data base's file."""
        return [self._path / "data.mdb"]


def _entries(path: Path, *, values: bool = True) -> Iterator[tuple[bytes, bytes]]:
    """What a data base holds; `values` says whether to read more than the keys."""
    yield from _database(path).entries(values)


class _Database:
    """An LMDB, opened when it is first read, and anew after a fork."""

    def __init__(self, path: str) -> None:
        try:
            import lmdb
        except ImportError as error:
            raise MissingExtraError("lmdb", "lmdb") from error
        self._lmdb = lmdb
        self._path = path
        self._opened: Any = None
        self._process = 0
        self._lock = threading.Lock()

    def entries(self, values: bool) -> Iterator[tuple[bytes, bytes]]:
        try:
            with self._open().begin() as transaction:
                cursor = transaction.cursor()
                if values:
                    yield from cursor
                else:
                    yield from ((key, b"") for key in cursor.iternext(values=False))
        except self._lmdb.Error as error:
            raise self._damaged(error) from error

    def get(self, key: bytes) -> bytes:
        try:
            with self._open().begin() as transaction:
                value: bytes | None = transaction.get(key)
        except self._lmdb.Error as error:
            raise self._damaged(error) from error
        if value is None:
            raise DatasetError(f"{self._path}: there is no key {key!r:.60} any more")
        return value

    def _open(self) -> Any:
        with self._lock:
            if self._process != os.getpid():
                # A data base that was open before a fork must be closed before it can be opened.
                if self._opened is not None:
                    self._opened.close()
                self._opened = self._lmdb.open(
                    self._path, readonly=True, lock=False, create=False, readahead=False
                )
                self._process = os.getpid()
            return self._opened

    def _damaged(self, error: Exception) -> DatasetError:
        return DatasetError(f"{self._path}: not an LMDB, or damaged: {error}")


# A process can open a data base but once.
_databases: WeakValueDictionary[str, _Database] = WeakValueDictionary()


def _database(path: Path) -> _Database:
    found = _Database(os.path.realpath(path))
    return _databases.setdefault(os.path.realpath(path), found)


class _PlainUnpickler(pickle.Unpickler):
    """Reads numbers, strings and tuples of them: what a pickle could do beyond that is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("a persistent id")


def _read_pair(value: bytes) -> tuple[Id, Id, str] | None:
    if len(value) > _MAX_PAIR:
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
