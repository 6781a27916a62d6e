"""What stands for the vectors: an id, a path and, of texts, the text of each. In Arrow's memory.

Ids and paths are kept as bytes, since the names of files need not be UTF-8.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidInputError, MissingExtraError


@dataclass(frozen=True)
class Item:
    """What one vector stands for.

    Attributes:
        id: Its name in the collection.
        path: Its file or URL; bytes that are no UTF-8 as surrogates, as `os.fsdecode` has them.
        text: Of texts, the text.
    """

    id: str
    path: str
    text: str | None = None


def _arrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtraError("search", "pyarrow") from error
    return pyarrow


class Items:
    """Items by their number, from 0.

    Attributes:
        table: Their Arrow table: `id` and `path` as large_binary, `text` as large_string.
    """

    def __init__(self, table: Any = None) -> None:
        self.table = _empty() if table is None else table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, number: int) -> Item:
        identity, path, text = (column[number].as_py() for column in self.table.columns)
        return Item(_decoded(identity), _decoded(path), text)

    def ids(self) -> list[str]:
        """All ids, in order."""
        return [_decoded(one) for one in self.table.column("id").to_pylist()]

    def append(
        self,
        ids: Sequence[str],
        paths: Sequence[str] | None = None,
        texts: Sequence[str | None] | None = None,
    ) -> None:
        """Add items.

        Args:
            ids: Their ids.
            paths: Their paths; the ids if None.
            texts: Their texts, or None.

        Raises:
            InvalidInputError: a text cannot be written as UTF-8.
        """
        pa = _arrow()
        try:
            columns = [
                pa.array(map(_encoded, ids), pa.large_binary()),
                pa.array(map(_encoded, ids if paths is None else paths), pa.large_binary()),
                pa.array([None] * len(ids) if texts is None else texts, pa.large_string()),
            ]
        except (UnicodeEncodeError, pa.ArrowException) as error:
            raise InvalidInputError(f"texts or paths that cannot be kept: {error}") from error
        more = pa.Table.from_arrays(columns, schema=self.table.schema)
        self.table = pa.concat_tables([self.table, more])

    def kept(self, keep: NDArray[np.bool_]) -> Items:
        """The items of bool [n] `keep`."""
        return Items(self.table.filter(_arrow().array(keep)))

    def to_bytes(self) -> Any:
        """Arrow's file format, as something like bytes."""
        pa = _arrow()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, self.table.schema) as writer:
            writer.write_table(self.table.combine_chunks())
        return sink.getvalue()

    @classmethod
    def from_buffer(cls, content: NDArray[np.uint8]) -> Items:
        """What `to_bytes` gave, without copying it.

        Raises:
            ValueError: it is no such thing.
        """
        pa = _arrow()
        try:
            table = pa.ipc.open_file(pa.py_buffer(content)).read_all()
        except pa.ArrowException as error:
            raise ValueError(str(error)) from error
        if table.schema != _empty().schema:
            raise ValueError("columns of other names or types")
        return cls(table)


def _empty() -> Any:
    pa = _arrow()
    schema = pa.schema(
        [("id", pa.large_binary()), ("path", pa.large_binary()), ("text", pa.large_string())]
    )
    return schema.empty_table()


def _encoded(name: str | os.PathLike[str]) -> bytes:
    return os.fspath(name).encode("utf-8", "surrogateescape")


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
