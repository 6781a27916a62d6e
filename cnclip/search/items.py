"""The id, path and text of each vector of an index, in an Arrow table.

Ids and paths are stored as bytes, since file names need not be UTF-8. As strings they have
surrogates for bytes that are not UTF-8, as in `os.fsdecode`. The text of an image is None.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._text import first_line
from ..errors import InvalidInputError
from ..sources import pyarrow_modules


class ItemTable:
    """Items numbered from 0.

    Attributes:
        table: The Arrow table: `id` and `path` as large_binary, `text` as large_string.
    """

    def __init__(self, table: Any = None) -> None:
        self.table = _empty() if table is None else table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, number: int) -> tuple[str, str, str | None]:
        """The id, path and text of an item."""
        id, path, text = (column[number].as_py() for column in self.table.columns)
        return _decoded(id), _decoded(path), text

    def ids(self) -> list[str]:
        """All ids, in order."""
        return [_decoded(id) for id in self.table.column("id").to_pylist()]

    def append(
        self, ids: Sequence[str], paths: Sequence[str], texts: Sequence[str | None] | None
    ) -> None:
        """Add n items; `texts` is None for images.

        Raises:
            InvalidInputError: an id, path or text cannot be stored, such as a text that is not
                UTF-8.
        """
        arrow, _ = pyarrow_modules("search")
        try:
            columns = [
                arrow.array(map(_encoded, ids), arrow.large_binary()),
                arrow.array(map(_encoded, paths), arrow.large_binary()),
                arrow.array([None] * len(ids) if texts is None else texts, arrow.large_string()),
            ]
        except MemoryError:
            raise
        except (UnicodeEncodeError, arrow.ArrowException) as error:
            reason = f"an id, path or text cannot be stored: {first_line(error)}"
            raise InvalidInputError(reason) from error
        more = arrow.Table.from_arrays(columns, schema=self.table.schema)
        self.table = arrow.concat_tables([self.table, more])

    def select(self, keep: NDArray[np.bool_]) -> ItemTable:
        """The items where bool [n] `keep` is true."""
        arrow, _ = pyarrow_modules("search")
        return ItemTable(self.table.filter(arrow.array(keep)))

    def to_bytes(self) -> Any:
        """The table in Arrow's file format, as a buffer."""
        arrow, _ = pyarrow_modules("search")
        sink = arrow.BufferOutputStream()
        with arrow.ipc.new_file(sink, self.table.schema) as writer:
            writer.write_table(self.table.combine_chunks())
        return sink.getvalue()

    @classmethod
    def from_buffer(cls, content: NDArray[np.uint8]) -> ItemTable:
        """Read what `to_bytes` returned, without copying it; ValueError if it has other columns."""
        arrow, _ = pyarrow_modules("search")
        try:
            table = arrow.ipc.open_file(arrow.py_buffer(content)).read_all()
        except MemoryError:
            raise
        except (arrow.ArrowException, UnicodeDecodeError) as error:
            raise ValueError(first_line(error)) from error
        if table.schema != _empty().schema:
            raise ValueError("columns with other names or types")
        return cls(table)


def _empty() -> Any:
    arrow, _ = pyarrow_modules("search")
    schema = arrow.schema(
        [
            ("id", arrow.large_binary()),
            ("path", arrow.large_binary()),
            ("text", arrow.large_string()),
        ]
    )
    return schema.empty_table()


def _encoded(name: str | os.PathLike[str]) -> bytes:
    return os.fspath(name).encode("utf-8", "surrogateescape")


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
