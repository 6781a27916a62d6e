"""A folder of embeddings: its manifest, its shards, and `Embeddings`, which reads them.

`manifest.json` names the shards. The embeddings of a shard are a .npy file. Its
Parquet file has a line per item. `store.py` writes the folder.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._files import open_file, sha256_of, write_durably
from .._text import counted, first_line
from ..archive import ArchiveInfo
from ..cache import remembered_sha256
from ..errors import EmbeddingsError
from ..pipelines import MultiModalEmbeddingPipeline
from ..preprocessors.decoding import changed_options
from ..sources import parquet_in_memory, pyarrow_modules
from .items import IdForm
from .outcomes import ITEM_KINDS, ItemKind

DTYPES = ("float16", "float32")
Layout = Literal["cnclip", "clip-retrieval"]
LAYOUTS = ("cnclip", "clip-retrieval")
FORMAT = 1
MANIFEST = "manifest.json"
# The manifest of a run that has not ended.
UNFINISHED = "unfinished.json"
SUFFIXES = ("npy", "parquet")
_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
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

    kind: ItemKind
    model: dict[str, Any]  # see model_identity
    precision: str
    dtype: str  # of the stored embeddings
    sources: list[str]  # absolute paths
    shard_items: int  # the last shard may have fewer
    normalized: bool = False  # texts were put in lower case with straight quotes
    exclude: tuple[str, ...] = ()  # patterns, see Exclusions
    default_excludes: bool = True
    ids: IdForm = "absolute"  # of files in folders
    shards: list[Shard] = field(default_factory=list)
    image_options: dict[str, str] = field(default_factory=dict)  # those that are not defaults
    layout: Layout = "cnclip"  # whether clip-retrieval's files are written as well

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
        for name in ("kind", "model", "precision", "dtype", "normalized"):
            mine, yours = getattr(self, name), getattr(other, name)
            same = mine == yours
            if name == "model":
                same = mine["digest"] == yours["digest"]
                mine, yours = (f"{one['name']} ({one['digest'][:12]})" for one in (mine, yours))
            if not same:
                found.append(f"{name}: {mine} and {yours}")
        for name, mine, yours in changed_options(self.image_options, other.image_options):
            found.append(f"{name}: {mine or 'none'} and {yours or 'none'}")
        return found

    def arguments_like(self, other: Manifest) -> list[str]:
        """The arguments of `cnclip embed` with which images are decoded as for this manifest.

        Only those with which the other manifest differs.
        """
        return [
            f"--{name} {mine}" if mine else f"no --{name}"
            for name, mine, _ in changed_options(self.image_options, other.image_options)
        ]

    def write(self, path: Path) -> None:
        """Create or replace the file as a whole.

        Raises:
            OSError: it cannot be written; names the file.
        """
        value = {"format": FORMAT, **asdict(self), "rows": self.rows, "items": self.items}
        if not self.image_options:
            del value["image_options"]
        if self.layout == "cnclip":
            del value["layout"]
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
            with open_file(path) as file:
                value = json.loads(file.read())
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
        except (AttributeError, KeyError, TypeError, ValueError) as error:
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
    if kind not in ITEM_KINDS or value["dtype"] not in DTYPES:
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
        value.get("normalized") is True,
        tuple(_text(one) for one in value.get("exclude", ())),
        value.get("default_excludes", True) is True,
        "relative" if value.get("ids") == "relative" else "absolute",
        shards,
        {_text(name): _text(one) for name, one in value.get("image_options", {}).items()},
        "clip-retrieval" if value.get("layout") == "clip-retrieval" else "cnclip",
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
            ("sha256", arrow.string()),
            ("error", arrow.string()),
            ("caption", arrow.string()),
        ]
    )


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
    """A shard's embeddings, [rows, d].

    An EmbeddingsError names a file that is missing or damaged.
    """
    path = path_of(folder, shard, "npy")
    try:
        rows = read_npy(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, EOFError) as error:
        raise EmbeddingsError(f"damaged: {first_line(error)}", file=path) from error
    if rows.shape != (shard.rows, manifest.model["embed_dim"]) or rows.dtype != manifest.dtype:
        raise EmbeddingsError(f"damaged: holds {rows.dtype} {list(rows.shape)}", file=path)
    return rows


def read_npy(path: Path) -> NDArray[Any]:
    """The array in a .npy file, in memory: a mapped one would end the process if it was truncated.

    Raises:
        OSError: the file cannot be read.
        ValueError, EOFError: it is damaged.
    """
    try:
        with open_file(path) as file:
            return _read_npy(file)
    except (OSError, ValueError, EOFError, MemoryError):
        raise
    except Exception as error:  # NumPy parses the header as Python
        raise ValueError(first_line(error)) from error


def _read_npy(file: BinaryIO) -> NDArray[Any]:
    size = os.fstat(file.fileno()).st_size
    version = np.lib.format.read_magic(file)
    if version not in _NPY_HEADERS:
        raise ValueError(f"version {version} of .npy")
    start = file.tell()
    length = int.from_bytes(file.read(2 if version == (1, 0) else 4), "little")
    if length > size - file.tell():  # NumPy would allocate as much
        raise ValueError(f"a header of {length} bytes")
    file.seek(start)
    shape, is_fortran, dtype = _NPY_HEADERS[version](file)
    needed = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or needed > size - file.tell():  # before memory is allocated
        raise ValueError(f"has {size - file.tell()} bytes of {needed}")
    content = np.empty(needed, np.uint8)
    # NumPy's own reading hides errors of the disk.
    if file.readinto(content) < needed:  # type: ignore[attr-defined]
        raise ValueError("ends early")
    return np.ndarray(shape, dtype, content, order="F" if is_fortran else "C")


def load_lines(folder: Path, shard: Shard) -> Any:
    """A shard's lines, a pyarrow.Table.

    An EmbeddingsError names a file that is missing or damaged.
    """
    arrow, _ = pyarrow_modules()
    path = path_of(folder, shard, "parquet")
    try:
        with open_file(path) as file:
            table = parquet_in_memory(file).read(use_threads=False)
        table.validate(full=True)  # texts that are not UTF-8
    except MemoryError:
        raise
    except (arrow.ArrowException, UnicodeDecodeError) as error:
        raise EmbeddingsError(f"damaged: {first_line(error)}", file=path) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    for name in ("sha256", "caption"):  # which earlier versions did not write
        if name not in table.schema.names:
            field, place = schema().field(name), schema().get_field_index(name)
            table = table.add_column(place, field, arrow.nulls(table.num_rows, field.type))
    if table.num_rows != shard.items or table.schema.names != schema().names:
        reason = f"damaged: {table.num_rows} lines of {table.schema.names}"
        raise EmbeddingsError(reason, file=path)
    return table


def _unreadable(path: Path, error: OSError) -> EmbeddingsError:
    if isinstance(error, FileNotFoundError):
        return EmbeddingsError("is missing", file=path)
    return EmbeddingsError(f"cannot be read: {first_line(error)}", file=path)


class EmbeddingBatch(NamedTuple):
    """The embeddings of a shard.

    Attributes:
        first_row: The number of the first among all rows.
        vectors: Float16 or float32 [n, d], rows of unit length.
        lines: A pyarrow.Table with a line for each row: `row` (of `vectors`), `id`, `path`,
            `text`, `width`, `height`, `bytes`, `size`, `mtime_ns`, `sha256`, `error` (null).
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
        model: The identity of the model, see `model_identity`; None if it is unknown, see
            `open_clip_retrieval`.
        precision: The precision of the model, such as "fp32".
        dtype: The type of the embeddings: "float16" or "float32".
        dim: Columns of the embeddings.
        rows: The number of embeddings.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self.kind = manifest.kind
        self.model: dict[str, Any] | None = manifest.model
        self.precision, self.dtype = manifest.precision, manifest.dtype
        self.dim: int = manifest.model["embed_dim"]
        self.rows = manifest.rows

    def __len__(self) -> int:
        return self.rows

    def __repr__(self) -> str:
        return (
            f"Embeddings({str(self.path)!r}: {counted(self.rows, self.kind)}, {self.dim} columns, "
            f"{self.dtype}; model {(self.model or {}).get('name', 'unknown')}, {self.precision})"
        )

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
