"""Reads a folder of embeddings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from ..errors import EmbeddingsError
from .shards import (
    MANIFEST,
    SUFFIXES,
    UNFINISHED,
    Manifest,
    check_shard,
    load_lines,
    load_vectors,
    path_of,
)


class EmbeddingBatch(NamedTuple):
    """The embeddings of a shard.

    Attributes:
        first_row: The number of the first among all rows.
        vectors: Float16 or float32 [n, d], rows of unit length, memory-mapped.
        lines: A pyarrow.Table with a line for each row: `row` (of `vectors`), `id`, `path`,
            `text`, `width`, `height`, `bytes`, `size`, `mtime_ns`, `error` (null).
    """

    first_row: int
    vectors: NDArray[Any]
    lines: Any


class Embeddings:
    """A folder of embeddings that a finished run has written.

    Methods that read files, `ids` and `paths` raise an EmbeddingsError that names a file which is
    missing or damaged.

    Attributes:
        path: The folder.
        manifest: The content of its `manifest.json`.
        kind: The kind of the items: "images" or "texts".
        model: The identity of the model, see `model_identity`.
        precision: The precision of the model, such as "fp32".
        dtype: The type of the embeddings: "float16" or "float32".
        dim: Columns of the embeddings.
        rows: The number of embeddings.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self.kind, self.model = manifest.kind, manifest.model
        self.precision, self.dtype = manifest.precision, manifest.dtype
        self.dim: int = manifest.model["embed_dim"]
        self.rows = manifest.rows

    def __len__(self) -> int:
        return self.rows

    @cached_property
    def ids(self) -> list[str]:
        """The rows' ids, distinct."""
        return self._column("id")

    @cached_property
    def paths(self) -> list[str]:
        """The rows' files or URLs; of a path that is not UTF-8, the file: URL."""
        return self._column("path")

    def blocks(self) -> Iterator[EmbeddingBatch]:
        """All rows, a shard at a time."""
        first = 0
        for shard in self.manifest.shards:
            vectors = load_vectors(self.path, shard, self.manifest)
            table = load_lines(self.path, shard)
            yield EmbeddingBatch(first, vectors, self._with_rows(table, shard.name))
            first += shard.rows

    def failed(self) -> Iterator[tuple[str, str, str]]:
        """(id, path, error) of the items that could not be embedded."""
        for shard in self.manifest.shards:
            table = load_lines(self.path, shard)
            table = table.filter(table.column("row").is_null())
            yield from zip(
                *(table.column(name).to_pylist() for name in ("id", "path", "error")), strict=True
            )

    def check(self) -> None:
        """Compare every file with its checksum.

        Raises:
            EmbeddingsError: one is missing or damaged; names it.
        """
        for shard in self.manifest.shards:
            check_shard(self.path, shard)

    def _column(self, name: str) -> list[str]:
        found: list[str] = []
        for shard in self.manifest.shards:
            table = self._with_rows(load_lines(self.path, shard), shard.name)
            found += table.column(name).to_pylist()
        return found

    def _with_rows(self, table: Any, name: str) -> Any:
        """The lines that have a row."""
        table = table.filter(table.column("row").is_valid())
        rows = table.column("row").to_pylist()
        if rows != list(range(len(rows))):
            path = self.path / f"{name}.parquet"
            raise EmbeddingsError("damaged: its rows are not in order", file=path)
        return table


def open_embeddings(path: str | os.PathLike[str], *, check: bool = False) -> Embeddings:
    """Open a folder of embeddings.

    Args:
        path: The folder, written by `cnclip embed` or `cnclip.bulk.embed`.
        check: Read all files and compare them with their checksums.

    Raises:
        EmbeddingsError: it is not a folder of embeddings, not finished, or a file is missing or
            damaged.
        MissingExtraError: pyarrow is not installed; raised when lines are read.
        OSError: it cannot be read.
    """
    folder = Path(path)
    manifest = Manifest.read(folder / MANIFEST) if folder.is_dir() else None
    if manifest is None:
        if (folder / UNFINISHED).exists():
            reason = "not finished: run the same `cnclip embed` again"
            raise EmbeddingsError(reason, file=folder)
        raise EmbeddingsError(f"not a folder of embeddings: it has no {MANIFEST}", file=folder)
    for shard in manifest.shards:
        for suffix in SUFFIXES:
            if not path_of(folder, shard, suffix).exists():
                raise EmbeddingsError("is missing", file=path_of(folder, shard, suffix))
    found = Embeddings(folder, manifest)
    if check:
        found.check()
    return found
