"""The files of a folder of embeddings: `manifest.json`, and two files per shard.

The embeddings of a shard are a .npy file, which can be mapped into memory. Its Parquet file has a
line per item. The same items give the same bytes, whenever they are written.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._files import sha256_of, write_durably
from .._text import first_line
from ..archive import ArchiveInfo
from ..cache import remembered_sha256
from ..errors import EmbeddingsError
from ..pipelines import MultiModalEmbeddingPipeline
from ..sources import pyarrow_modules
from .items import Outcome
from .options import DTYPES, KINDS, Kind

FORMAT = 1
MANIFEST = "manifest.json"
# The manifest of a run that has not ended.
UNFINISHED = "unfinished.json"
SUFFIXES = ("npy", "parquet")
_ITEM_COLUMNS = ("id", "path", "text", "size", "mtime_ns")
_OUTCOME_COLUMNS = ("width", "height", "bytes", "error")
# Digits of the checksum in a shard's name: 48 bits.
_DIGITS = 12
# Kinds as earlier versions wrote them.
_FORMER_KINDS = {"pictures": "images"}


def model_identity(pipeline: MultiModalEmbeddingPipeline) -> dict[str, Any]:
    """The identity of a model: embeddings of models with different digests must not be mixed.

    Returns:
        {"name", "digest", "embed_dim", "resolution"}. The digest is that of the checkpoint where
        it is known, else of the archive.

    Raises:
        OSError: the archive cannot be read.
    """
    return archive_identity(pipeline.model.info)


def archive_identity(info: ArchiveInfo) -> dict[str, Any]:
    """The identity of the model in an archive, see `model_identity`."""
    source = info.metadata.get("source")
    origin = source if isinstance(source, dict) else {}
    return {
        "name": str(origin.get("name") or info.path.name),
        "digest": str(origin.get("digest") or remembered_sha256(info.path)),
        "embed_dim": info.embed_dim,
        "resolution": info.resolution,
    }


@dataclass(frozen=True)
class Shard:
    """Consecutive items, stored in `NAME.npy` and `NAME.parquet`, which never change."""

    name: str  # its number and the beginning of a checksum of both files
    rows: int  # its embeddings
    items: int  # its lines, including those of items that failed
    sha256: dict[str, str]  # the checksums of the files by their suffixes


@dataclass
class Manifest:
    """The content of `manifest.json`."""

    kind: Kind
    model: dict[str, Any]  # see model_identity
    precision: str
    dtype: str  # of the stored embeddings
    sources: list[str]  # absolute paths
    shard_items: int  # the last shard may have fewer
    shards: list[Shard] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """The number of embeddings."""
        return sum(shard.rows for shard in self.shards)

    @property
    def items(self) -> int:
        """The number of items, including those that failed."""
        return sum(shard.items for shard in self.shards)

    def differences(self, other: Manifest) -> list[str]:
        """The reasons not to mix the embeddings with those of another manifest, as messages."""
        found = []
        for name in ("kind", "model", "precision", "dtype"):
            mine, yours = getattr(self, name), getattr(other, name)
            same = mine == yours
            if name == "model":
                same = mine["digest"] == yours["digest"]
                mine, yours = (f"{one['name']} ({one['digest'][:12]})" for one in (mine, yours))
            if not same:
                found.append(f"{name}: {mine} and {yours}")
        return found

    def write(self, path: Path) -> None:
        """Create or replace the file as a whole.

        Raises:
            OSError: it cannot be written; names the file.
        """
        value = {"format": FORMAT, **asdict(self), "rows": self.rows, "items": self.items}
        value["shards"] = value.pop("shards")  # the long part last
        text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
        write_durably(path, text.encode())

    @classmethod
    def read(cls, path: Path) -> Manifest | None:
        """The manifest in a file; None if there is no file.

        Raises:
            EmbeddingsError: it is damaged, not a manifest, or of another format.
            OSError: it cannot be read.
        """
        try:
            value = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as error:
            raise EmbeddingsError(f"damaged, not JSON: {first_line(error)}", file=path) from error
        found = value.get("format") if isinstance(value, dict) else None
        if type(found) is not int or found != FORMAT:
            reason = f"not a manifest of embeddings of format {FORMAT}, but {found!r:.40}"
            raise EmbeddingsError(reason, file=path)
        try:
            return _manifest_of(value)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"damaged: {type(error).__name__}: {first_line(error)}"
            raise EmbeddingsError(reason, file=path) from error


def _manifest_of(value: dict[str, Any]) -> Manifest:
    model = value["model"]
    shards = [
        Shard(
            _text(one["name"]),
            _count(one["rows"]),
            _count(one["items"]),
            {suffix: _text(one["sha256"][suffix]) for suffix in SUFFIXES},
        )
        for one in value["shards"]
    ]
    for shard in shards:
        if Path(shard.name).name != shard.name or shard.rows > shard.items:
            raise ValueError(shard.name)
    kind = _FORMER_KINDS.get(value["kind"], value["kind"])
    if kind not in KINDS or value["dtype"] not in DTYPES:
        raise ValueError(kind, value["dtype"])
    return Manifest(
        kind,
        {
            "name": _text(model["name"]),
            "digest": _text(model["digest"]),
            "embed_dim": _count(model["embed_dim"]),
            "resolution": _count(model["resolution"]),
        },
        _text(value["precision"]),
        value["dtype"],
        [_text(source) for source in value["sources"]],
        _count(value["shard_items"]),
        shards,
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(value)
    return value


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
    folder: Path, number: int, outcomes: Sequence[Outcome], manifest: Manifest, intact: set[str]
) -> Shard:
    """Write the files of a shard, unless it is one of the intact shards. It is added to them.

    Raises:
        OSError: a file cannot be written; names it.
    """
    vectors = [outcome.vector for outcome in outcomes if outcome.vector is not None]
    rows = np.empty((len(vectors), manifest.model["embed_dim"]), manifest.dtype)
    for row, vector in zip(rows, vectors, strict=True):
        row[:] = vector
    contents = dict(zip(SUFFIXES, (_npy(rows), _parquet(outcomes)), strict=True))
    sums = {suffix: hashlib.sha256(content).hexdigest() for suffix, content in contents.items()}
    both = hashlib.sha256("".join(sums[suffix] for suffix in SUFFIXES).encode()).hexdigest()
    shard = Shard(f"{number:05}-{both[:_DIGITS]}", len(rows), len(outcomes), sums)
    if shard.name not in intact:
        for suffix, content in contents.items():
            write_durably(path_of(folder, shard, suffix), content)
        intact.add(shard.name)
    return shard


def _npy(rows: NDArray[Any]) -> bytes:
    content = io.BytesIO()
    np.save(content, rows)
    return content.getvalue()


def _parquet(outcomes: Sequence[Outcome]) -> bytes:
    arrow, parquet = pyarrow_modules()
    wanted = schema()
    columns: dict[str, list[Any]] = {
        name: [getattr(outcome.item, name) for outcome in outcomes] for name in _ITEM_COLUMNS
    }
    columns |= {name: [getattr(outcome, name) for outcome in outcomes] for name in _OUTCOME_COLUMNS}
    rows = itertools.count()
    columns["row"] = [None if outcome.vector is None else next(rows) for outcome in outcomes]
    arrays = [arrow.array(columns[field.name], field.type) for field in wanted]
    content = io.BytesIO()
    table = arrow.Table.from_arrays(arrays, schema=wanted)
    parquet.write_table(table, content, compression="zstd")
    return content.getvalue()


def path_of(folder: Path, shard: Shard, suffix: str) -> Path:
    """The path of one of a shard's files."""
    return folder / f"{shard.name}.{suffix}"


def check_shard(folder: Path, shard: Shard) -> None:
    """Compare a shard's files with their checksums.

    Raises:
        EmbeddingsError: one is missing or damaged; names it.
    """
    for suffix in SUFFIXES:
        path = path_of(folder, shard, suffix)
        try:
            found = sha256_of(path)
        except OSError as error:
            raise _unreadable(path, error) from error
        if found != shard.sha256[suffix]:
            raise EmbeddingsError("damaged: its checksum differs", file=path)


def load_vectors(folder: Path, shard: Shard, manifest: Manifest) -> NDArray[Any]:
    """A shard's embeddings, [rows, d], mapped into memory.

    An EmbeddingsError names a file that is missing or damaged.
    """
    path = path_of(folder, shard, "npy")
    try:
        # An array without rows cannot be mapped.
        rows: NDArray[Any] = np.load(path, "r" if shard.rows else None, allow_pickle=False)
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, EOFError) as error:
        raise EmbeddingsError(f"damaged: {first_line(error)}", file=path) from error
    if rows.shape != (shard.rows, manifest.model["embed_dim"]) or rows.dtype != manifest.dtype:
        raise EmbeddingsError(f"damaged: holds {rows.dtype} {list(rows.shape)}", file=path)
    return rows


def load_lines(folder: Path, shard: Shard) -> Any:
    """A shard's lines, a pyarrow.Table.

    An EmbeddingsError names a file that is missing or damaged.
    """
    arrow, parquet = pyarrow_modules()
    path = path_of(folder, shard, "parquet")
    try:
        # Read through a Python file: its errors are OSErrors, and pyarrow starts no threads.
        with path.open("rb") as file:
            table = parquet.read_table(file, use_threads=False, pre_buffer=False)
    except arrow.ArrowException as error:
        raise EmbeddingsError(f"damaged: {first_line(error)}", file=path) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    if table.num_rows != shard.items or table.schema.names != schema().names:
        reason = f"damaged: {table.num_rows} lines of {table.schema.names}"
        raise EmbeddingsError(reason, file=path)
    return table


def _unreadable(path: Path, error: OSError) -> EmbeddingsError:
    if isinstance(error, FileNotFoundError):
        return EmbeddingsError("is missing", file=path)
    return EmbeddingsError(f"cannot be read: {first_line(error)}", file=path)
