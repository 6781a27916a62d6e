"""A shard's two files: embeddings as .npy, which can be mapped, and a Parquet line an item.

The same items give the same bytes, whenever they are written.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._files import write_durably
from ..errors import EmbeddingsError
from ..sources import pyarrow_modules
from .items import Outcome
from .manifest import Manifest, Shard

SUFFIXES = ("npy", "parquet")
_OF_ITEMS = ("id", "path", "text", "size", "mtime_ns")
_OF_OUTCOMES = ("width", "height", "bytes", "error")
# Of the checksum in a name: 48 bits.
_DIGITS = 12


def schema() -> Any:
    """The columns of a shard's Parquet file."""
    arrow, _ = pyarrow_modules()
    return arrow.schema(
        [
            ("row", arrow.int64()),
            ("id", arrow.string()),
            ("path", arrow.string()),
            ("text", arrow.string()),
            ("width", arrow.int32()),
            ("height", arrow.int32()),
            ("bytes", arrow.int64()),
            ("size", arrow.int64()),
            ("mtime_ns", arrow.int64()),
            ("error", arrow.string()),
        ]
    )


def write_shard(
    folder: Path, number: int, items: Sequence[Outcome], manifest: Manifest, intact: set[str]
) -> Shard:
    """Write the files of a run of items.

    Args:
        folder: Where.
        number: Of the shard, from 0.
        items: Each with a vector or an error.
        manifest: Says how wide and of which type the embeddings are.
        intact: Names of shards that are there already, undamaged; gets this one's.

    Raises:
        OSError: a file cannot be written; names it.
    """
    vectors = [item.vector for item in items if item.vector is not None]
    rows = np.empty((len(vectors), manifest.model["embed_dim"]), manifest.dtype)
    for row, vector in zip(rows, vectors, strict=True):
        row[:] = vector
    contents = dict(zip(SUFFIXES, (_npy(rows), _parquet(items)), strict=True))
    sums = {suffix: hashlib.sha256(content).hexdigest() for suffix, content in contents.items()}
    both = hashlib.sha256("".join(sums[suffix] for suffix in SUFFIXES).encode()).hexdigest()
    shard = Shard(f"{number:05}-{both[:_DIGITS]}", len(rows), len(items), sums)
    if shard.name not in intact:
        for suffix, content in contents.items():
            write_durably(path_of(folder, shard, suffix), content)
        intact.add(shard.name)
    return shard


def _npy(rows: NDArray[Any]) -> bytes:
    content = io.BytesIO()
    np.save(content, rows)
    return content.getvalue()


def _parquet(items: Sequence[Outcome]) -> bytes:
    arrow, parquet = pyarrow_modules()
    wanted = schema()
    columns = {name: [getattr(item.item, name) for item in items] for name in _OF_ITEMS}
    columns |= {name: [getattr(item, name) for item in items] for name in _OF_OUTCOMES}
    columns["row"] = _numbers(items)
    arrays = [arrow.array(columns[field.name], field.type) for field in wanted]
    content = io.BytesIO()
    table = arrow.Table.from_arrays(arrays, schema=wanted)
    parquet.write_table(table, content, compression="zstd")
    return content.getvalue()


def _numbers(items: Sequence[Outcome]) -> list[int | None]:
    """The row of each item's embedding, None of those that failed."""
    numbers: list[int | None] = []
    row = 0
    for item in items:
        numbers.append(None if item.vector is None else row)
        row += item.vector is not None
    return numbers


def path_of(folder: Path, shard: Shard, suffix: str) -> Path:
    """One of a shard's files."""
    return folder / f"{shard.name}.{suffix}"


def check_shard(folder: Path, shard: Shard) -> None:
    """Compare a shard's files with their checksums.

    Raises:
        EmbeddingsError: one is missing or damaged; names it.
    """
    for suffix in SUFFIXES:
        path = path_of(folder, shard, suffix)
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _unreadable(path, error) from error
        if found != shard.sha256[suffix]:
            raise EmbeddingsError(f"{path}: damaged: not what was written")


def load_vectors(folder: Path, shard: Shard, manifest: Manifest) -> NDArray[Any]:
    """A shard's embeddings, [rows, d], mapped.

    Raises:
        EmbeddingsError: the file is missing or damaged; names it.
    """
    path = path_of(folder, shard, "npy")
    try:
        # An array without rows cannot be mapped.
        rows: NDArray[Any] = np.load(path, "r" if shard.rows else None, allow_pickle=False)
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, EOFError) as error:
        raise EmbeddingsError(f"{path}: damaged: {error}") from error
    if rows.shape != (shard.rows, manifest.model["embed_dim"]) or rows.dtype != manifest.dtype:
        raise EmbeddingsError(f"{path}: damaged: holds {rows.dtype} {list(rows.shape)}")
    return rows


def load_lines(folder: Path, shard: Shard) -> Any:
    """A shard's lines, a pyarrow.Table.

    Raises:
        EmbeddingsError: the file is missing or damaged; names it.
    """
    arrow, parquet = pyarrow_modules()
    path = path_of(folder, shard, "parquet")
    try:
        # Read through a file of Python's: its errors are OSErrors, and no threads are started.
        with path.open("rb") as file:
            table = parquet.read_table(file, use_threads=False, pre_buffer=False)
    except arrow.ArrowException as error:
        raise EmbeddingsError(f"{path}: damaged: {str(error)[:200]}") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    if table.num_rows != shard.items or table.schema.names != schema().names:
        raise EmbeddingsError(f"{path}: damaged: {table.num_rows} lines of {table.schema.names}")
    return table


def _unreadable(path: Path, error: OSError) -> EmbeddingsError:
    if isinstance(error, FileNotFoundError):
        return EmbeddingsError(f"{path}: is missing")
    return EmbeddingsError(f"{path}: cannot be read: {error.strerror or error}")
