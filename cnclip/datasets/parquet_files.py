"""Parquet files with a column of images and one of texts, as Hugging Face's data sets.

An image is a file's bytes, `{bytes, path}`, or a path from the Parquet file's folder; a text is a
string or a list of them. An image's id is the number of its row.
"""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DatasetError, ImageError, MissingExtraError
from . import shards
from .folder import IMAGE_KEYS, TEXT_KEYS, leads_out, usable_texts
from .problems import Problems
from .shards import Index, IndexedData
from .stores import ImageStore, Kept

SUFFIX = ".parquet"
# Row groups of images that a process holds: whoever shuffles more of them at once waits.
GROUPS_KEPT = 8
_LARGE_GROUP = 128 << 20


def splits(place: Path) -> list[str]:
    """The splits that lie here in this layout; an empty name for what is not split.

    Raises:
        DatasetError: a file that a pattern names is not there.
    """
    return list(shards.splits(place, SUFFIX))


class _Group(NamedTuple):
    """A row group: its file, its number there, its first row in all files, its image column."""

    path: Path
    number: int
    start: int
    column: str


class ParquetData(IndexedData):
    """A split in this layout."""

    suffix = SUFFIX

    def _read_index(self, problems: Problems) -> Index:
        texts: list[str] = []
        image_of = array("q")
        groups: list[_Group] = []
        starts = [0]  # the number of each file's first row
        end = 0
        for path, name in zip(self._files, self._names, strict=True):
            with _damage_named(name, problems), _opened(path) as file:
                images, column = _columns(file.schema_arrow, name)
                _tell_large(file.metadata, images, name, problems)
                for number in range(file.num_row_groups):
                    groups.append(_Group(path, number, end, images))
                    with _damage_named(f"{name}: row group {number}", problems):
                        for row, value in enumerate(_values(file, number, column), end):
                            where = f"{name}:{row - starts[-1] + 1}"
                            if isinstance(value, UnicodeDecodeError):
                                problems.add(where, "the text is not UTF-8")
                                continue
                            for text in usable_texts(value, f"row {row}", where, problems):
                                texts.append(text)
                                image_of.append(row)
                    end += file.metadata.row_group(number).num_rows
            starts.append(end)
        store = _ParquetImages(self._files, self._names, starts, groups)
        return Index(store, texts, np.frombuffer(image_of, np.int64))


class _ParquetImages(ImageStore):
    groups_kept = GROUPS_KEPT

    def __init__(
        self, files: list[Path], names: list[str], starts: list[int], groups: list[_Group]
    ) -> None:
        """Take the files, the numbers of their first rows and of the end, and their row groups."""
        self.ids = range(starts[-1])
        sizes = np.diff([*(group.start for group in groups), starts[-1]])
        self.groups = np.repeat(np.arange(len(groups), dtype=np.int64), sizes)
        self._files, self._names = files, names
        self._starts, self._row_groups = np.array(starts, np.int64), groups
        self._read = Kept(_read_group, GROUPS_KEPT)

    def content(self, image: int) -> bytes | Path:
        """The image file's bytes, or its path."""
        assert self.groups is not None
        group = self._row_groups[self.groups[image]]
        value = _value(self._read(group)[image - group.start])
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str) or not value:
            raise ImageError("the row has no image")
        if leads_out(value):
            raise ImageError(f"{value!r:.60} leads out of the folder")
        path: Path = group.path.parent / value
        return path

    def where(self, image: int) -> str:
        """The file and the row, from 1."""
        file = int(np.searchsorted(self._starts, image, side="right")) - 1
        return f"{self._names[file]}:{image - self._starts[file] + 1}"

    def files(self) -> Iterable[Path]:
        """The Parquet files."""
        return self._files


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("parquet", "pyarrow") from error
    return pyarrow, pyarrow.parquet


@contextlib.contextmanager
def _damage_named(where: str, problems: Problems) -> Iterator[None]:
    arrow, _ = _pyarrow()
    try:
        yield
    except (arrow.ArrowException, OSError) as error:
        problems.add(where, f"damaged, or not Parquet: {str(error)[:200]}")


def _opened(path: Path) -> Any:
    # Threads that read ahead would be missing after a fork.
    return _pyarrow()[1].ParquetFile(path, pre_buffer=False)


def _read_group(group: _Group) -> Any:
    """The images of a row group."""
    arrow, _ = _pyarrow()
    try:
        with _opened(group.path) as file:
            table = file.read_row_group(group.number, columns=[group.column], use_threads=False)
    except (arrow.ArrowException, OSError) as error:
        raise ImageError(f"row group {group.number} cannot be read: {str(error)[:200]}") from error
    return table.column(0)


def _values(file: Any, group: int, column: str) -> Iterator[Any]:
    """The values of a column; for one that is not UTF-8 the error."""
    for batch in file.iter_batches(row_groups=[group], columns=[column], use_threads=False):
        try:
            values = batch.column(0).to_pylist()
        except UnicodeDecodeError:
            values = map(_value, batch.column(0))
        yield from values


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return error


def _columns(schema: Any, name: str) -> tuple[str, str]:
    """The columns of the images and of the texts.

    Raises:
        DatasetError: there is none of a usual name and a type that fits.
    """
    arrow, _ = _pyarrow()
    types = arrow.types

    def is_text(kind: Any) -> bool:
        if types.is_dictionary(kind):
            kind = kind.value_type
        return bool(types.is_string(kind) or types.is_large_string(kind))

    def is_content(kind: Any) -> bool:
        is_file = types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        return bool(is_file or types.is_binary(kind) or types.is_large_binary(kind))

    def is_texts(kind: Any) -> bool:
        is_list = types.is_list(kind) or types.is_large_list(kind)
        return is_text(kind.value_type if is_list else kind)

    found = {field.name: field.type for field in schema}
    of_images = [key for key in IMAGE_KEYS if key in found]
    images = [key for key in of_images if is_content(found[key])]
    images += [key for key in of_images if is_text(found[key])]
    texts = [key for key in TEXT_KEYS if key in found and is_texts(found[key])]
    for what, some, keys in (("images", images, IMAGE_KEYS), ("texts", texts, TEXT_KEYS)):
        if not some:
            columns = ", ".join(f"{key}: {kind}" for key, kind in found.items())
            raise DatasetError(
                f"{name}: no column of {what} ({', '.join(keys)}); found {columns:.300}"
            )
    return images[0], texts[0]


def _tell_large(metadata: Any, column: str, name: str, problems: Problems) -> None:
    largest = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        parts = [group.column(index) for index in range(group.num_columns)]
        sizes = [p.total_uncompressed_size for p in parts if _top(p.path_in_schema) == column]
        largest = max(largest, sum(sizes))
    if largest > _LARGE_GROUP:
        problems.add(
            name,
            f"has a row group with {largest >> 20} MB of images: every process reads row groups "
            f"as a whole, and holds {GROUPS_KEPT}",
            skipped=False,
        )


def _top(path: str) -> str:
    return path.partition(".")[0]
