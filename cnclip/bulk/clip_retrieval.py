"""Reads clip-retrieval's folders as `Embeddings`.

| file | content |
|---|---|
| `img_emb/img_emb_N.npy`, `text_emb/text_emb_N.npy` | float16 or float32 [n, d] |
| `metadata/metadata_N.parquet` | n lines: `image_path`, `url`, `caption` and others |

`to_clip_retrieval.py` writes them.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._files import open_file
from .._text import counted, first_line
from ..errors import CnclipError, EmbeddingsError, ModelMismatchError
from ..pipelines import MultiModalEmbeddingPipeline
from ..preprocessors.image import is_url
from ..sources import parquet_in_memory, pyarrow_modules
from .folder import DTYPES, EmbeddingBatch, Embeddings, Manifest, model_identity, read_npy, schema
from .outcomes import ItemKind

logger = logging.getLogger("cnclip")

VECTORS: dict[ItemKind, str] = {"images": "img_emb", "texts": "text_emb"}
METADATA = "metadata"
# In the description of a Parquet file: the model of the embeddings.
MARK = b"cnclip"
PART = re.compile(r"(img_emb|text_emb|metadata)_(\d+)\.(npy|parquet)")
# Columns of ids, the first that has all values.
_IDS: dict[ItemKind, tuple[str, ...]] = {
    "images": ("id", "image_path", "key", "url"),
    "texts": ("id", "key"),
}
_ROWS_AT_ONCE = 1 << 16
# Allows for rounding in half precision.
_NORM_TOLERANCE = 0.01
# Items that are embedded again, to find whether they are of the model that a caller names.
_COMPARED = 5
_MAX_TRIED = 200
# Embeddings of one image by two models are nearly orthogonal; by one model in two programs, which
# decode and round differently, they are nearly equal.
_MIN_COSINE = 0.8


def is_clip_retrieval(folder: Path) -> bool:
    """Whether a folder has clip-retrieval's layout."""
    return (folder / METADATA).is_dir() and any(
        (folder / name).is_dir() for name in VECTORS.values()
    )


class _Part(NamedTuple):
    """The files of some rows."""

    vectors: Path
    metadata: Path


def open_clip_retrieval(
    path: str | os.PathLike[str],
    kind: ItemKind | None = None,
    *,
    pipeline: MultiModalEmbeddingPipeline | None = None,
) -> Embeddings:
    """Open a folder that clip-retrieval wrote, or `cnclip embed --to clip-retrieval`.

    Only the latter records the model of its embeddings. For another folder the caller may name the
    model: a few of its images that exist here, or of its texts, are embedded again and compared.

    Args:
        path: The folder, with `img_emb` or `text_emb`, or both, and `metadata`.
        kind: 'images' or 'texts'; by default images if there is an `img_emb`.
        pipeline: The model of the embeddings.

    Returns:
        The embeddings. `model` is None if it is unknown. Ids are those of the column `id`,
        `image_path`, `key` or `url`, the first that has all values, else numbers of rows; one that
        is repeated has the number of its row added.

    Raises:
        EmbeddingsError: it is not such a folder; or its files differ in their numbers or rows.
        ModelMismatchError: the embeddings are of another model than the pipeline's.
        MissingExtraError: pyarrow is not installed.
        OSError: it cannot be read.
    """
    folder = Path(path)
    if kind is None:
        kind = "images" if (folder / VECTORS["images"]).is_dir() else "texts"
    found = ClipRetrievalEmbeddings(folder, kind, _parts(folder, kind))
    if pipeline is not None:
        found.check_model(pipeline)
    return found


def _parts(folder: Path, kind: ItemKind) -> list[_Part]:
    """The files, by their numbers; those of metadata must be the same ones."""
    names = [VECTORS[kind], METADATA]
    files: dict[str, dict[int, Path]] = {}
    for name, suffix in zip(names, ("npy", "parquet"), strict=True):
        if not (folder / name).is_dir():
            raise EmbeddingsError(f"not a folder of clip-retrieval's: has no {name}", file=folder)
        files[name] = {
            int(match[2]): path
            for path in (folder / name).iterdir()
            if (match := PART.fullmatch(path.name)) and (match[1], match[3]) == (name, suffix)
        }
    vectors, metadata = (files[name] for name in names)
    if not vectors:
        raise EmbeddingsError(f"holds no {names[0]}_N.npy", file=folder / names[0])
    if lonely := vectors.keys() ^ metadata.keys():
        number = min(lonely)
        one = vectors.get(number) or metadata[number]
        other = names[1] if number in vectors else names[0]
        raise EmbeddingsError(f"has no file of the same number in {other}", file=one)
    return [_Part(vectors[number], metadata[number]) for number in sorted(vectors)]


class ClipRetrievalEmbeddings(Embeddings):
    """Embeddings of a folder that clip-retrieval wrote, see `open_clip_retrieval`."""

    def __init__(self, path: Path, kind: ItemKind, parts: list[_Part]) -> None:
        """Use `open_clip_retrieval`."""
        shapes = [self._shape(part) for part in parts]
        dims = {vectors.shape[1] for vectors in shapes}
        dtypes = {str(vectors.dtype) for vectors in shapes}
        if len(dims) > 1 or len(dtypes) > 1:
            reason = f"has files of {sorted(dims)} columns and of {', '.join(sorted(dtypes))}"
            raise EmbeddingsError(reason, file=path / VECTORS[kind])
        recorded = _recorded(parts[0].metadata, kind)
        model, precision = recorded or (None, "fp32")
        unknown = {"name": "unknown", "digest": "", "embed_dim": dims.pop(), "resolution": 0}
        if model is not None and model["embed_dim"] != unknown["embed_dim"]:
            reason = f"records a model of {model['embed_dim']} columns, not of the embeddings"
            raise EmbeddingsError(reason, file=parts[0].metadata)
        super().__init__(path, Manifest(kind, model or unknown, precision, dtypes.pop(), [], 0))
        self.model = model
        self.rows = sum(len(vectors) for vectors in shapes)
        self._parts = parts

    @staticmethod
    def _shape(part: _Part) -> NDArray[Any]:
        """The vectors of a part; there are as many lines."""
        vectors = _vectors(part.vectors)
        _, parquet = pyarrow_modules()
        lines = _read_parquet(part.metadata, parquet.read_metadata).num_rows
        if lines != len(vectors):
            reason = f"has {lines} lines, but {part.vectors.name} has {len(vectors)} rows"
            raise EmbeddingsError(reason, file=part.metadata)
        return vectors

    def blocks(self) -> Iterator[EmbeddingBatch]:
        """All rows, a file at a time."""
        first = 0
        seen: set[int] = set()  # 64 bits of each id
        for part in self._parts:
            vectors = _vectors(part.vectors)
            lines = self._lines(part, first, seen)
            yield EmbeddingBatch(first, vectors, lines)
            first += len(vectors)

    def failed(self) -> Iterator[tuple[str, str, str]]:
        """None: clip-retrieval does not record items that fail."""
        return iter(())

    def check(self) -> None:
        """Read all embeddings, which must be of unit length.

        Raises:
            EmbeddingsError: a row is not finite or not of unit length; names it.
        """
        for part in self._parts:
            vectors = _vectors(part.vectors)
            for start in range(0, len(vectors), _ROWS_AT_ONCE):
                rows = np.asarray(vectors[start : start + _ROWS_AT_ONCE], np.float32)
                lengths = np.linalg.norm(rows, axis=1)
                wrong = np.flatnonzero(~(np.abs(lengths - 1) <= _NORM_TOLERANCE))
                if len(wrong):
                    reason = f"has the length {lengths[wrong[0]]:.4g}, expected 1; normalize rows"
                    row = start + int(wrong[0])
                    raise EmbeddingsError(reason, file=part.vectors, member=f"row {row}")

    def check_model(self, pipeline: MultiModalEmbeddingPipeline) -> None:
        """Find out whether the embeddings are of a model, and record it.

        Raises:
            ModelMismatchError: they are of another one.
        """
        identity = model_identity(pipeline)
        if self.model is not None:
            if self.model["digest"] != identity["digest"]:
                reason = f"has embeddings of {self.model['name']}, not of {identity['name']}"
                raise ModelMismatchError(reason, file=self.path)
            return
        if self.dim != identity["embed_dim"]:
            reason = (
                f"has embeddings of {self.dim} columns; those of {identity['name']} have "
                f"{identity['embed_dim']}"
            )
            raise ModelMismatchError(reason, file=self.path)
        cosines = self._compared(pipeline)
        if not cosines:
            logger.warning(
                "%s: none of its %s could be embedded again, to find whether %s is its model",
                self.path,
                self.kind,
                identity["name"],
            )
        elif (middle := float(np.median(cosines))) < _MIN_COSINE:
            reason = (
                f"has embeddings of another model than {identity['name']}: the cosine of "
                f"{counted(len(cosines), self.kind)} embedded again is {middle:.2f}"
            )
            raise ModelMismatchError(reason, file=self.path)
        self.model, self.precision = identity, pipeline.model.precision

    def _compared(self, pipeline: MultiModalEmbeddingPipeline) -> list[float]:
        """The cosines of a few embeddings with those that a model makes of the same items."""
        key = "text" if self.kind == "texts" else "img"
        cosines: list[float] = []
        for value, vector in itertools.islice(self._values(), _MAX_TRIED):
            if value is None or (key == "img" and not os.path.isfile(value)):
                continue
            try:
                made = pipeline.forward({key: value})[f"{key}_embedding"]
            except MemoryError:
                raise
            except CnclipError:
                continue
            cosines.append(float(np.asarray(made)[0] @ np.asarray(vector, np.float32)))
            if len(cosines) == _COMPARED:
                break
        return cosines

    def _values(self) -> Iterator[tuple[str | None, NDArray[Any]]]:
        """The texts or the paths of images, with their embeddings."""
        for block in self.blocks():
            column = block.lines.column("text" if self.kind == "texts" else "path")
            yield from zip(column.to_pylist(), block.vectors, strict=True)

    def _column(self, name: str) -> list[str]:
        return [one for block in self.blocks() for one in block.lines.column(name).to_pylist()]

    def _lines(self, part: _Part, first: int, seen: set[int]) -> Any:
        """The lines of a file, in the columns of cnclip's folders."""
        arrow, parquet = pyarrow_modules()

        def read(file: Any) -> Any:
            found = parquet_in_memory(file)
            wanted = [n for n in ("id", "image_path", "key", "url", "caption") if n in columns]
            table = found.read(columns=wanted, use_threads=False)
            table.validate(full=True)  # texts that are not UTF-8
            return table

        columns = set(_read_parquet(part.metadata, parquet.read_schema).names)
        table = _read_parquet(part.metadata, read)
        values = {name: _strings(table.column(name)) for name in table.column_names}
        count = table.num_rows
        filled = [name for name in _IDS[self.kind] if name in values and None not in values[name]]
        given = values[filled[0]] if filled else [str(first + row) for row in range(count)]
        ids = list(_unique(given, first, seen))
        if self.kind == "texts":
            paths: list[str] = [str(part.metadata)] * count
        else:
            none: list[str | None] = [None] * count
            places, urls = (values.get(name, none) for name in ("image_path", "url"))
            paths = [
                _path(place, url) or id for place, url, id in zip(places, urls, ids, strict=True)
            ]
        captions = "text" if self.kind == "texts" else "caption"
        known = {"row": range(count), "id": ids, "path": paths, captions: values.get("caption")}
        arrays = [
            arrow.nulls(count, field.type)
            if known.get(field.name) is None
            else arrow.array(known[field.name], field.type)
            for field in schema()
        ]
        return arrow.Table.from_arrays(arrays, schema=schema())


def _path(place: str | None, url: str | None) -> str | None:
    """The file of an image, or its URL."""
    if place is None or (url is not None and not os.path.isabs(place)):
        return url
    if not os.path.isabs(place) and not is_url(place) and os.path.exists(place):
        return os.path.abspath(place)
    return place


def _unique(ids: list[Any], first: int, seen: set[int]) -> Iterator[str]:
    for row, id in enumerate(ids, first):
        if hash(id) in seen:
            id = f"{id}#{row}"
        seen.add(hash(id))
        yield id


def _strings(column: Any) -> list[str | None]:
    return [None if value is None or value == "" else str(value) for value in column.to_pylist()]


def _vectors(path: Path) -> NDArray[Any]:
    """Embeddings, [n, d]."""
    try:
        rows = read_npy(path)
    except OSError as error:
        raise EmbeddingsError(f"cannot be read: {first_line(error)}", file=path) from error
    except (ValueError, EOFError) as error:
        raise EmbeddingsError(f"damaged: {first_line(error)}", file=path) from error
    if rows.ndim != 2 or str(rows.dtype) not in DTYPES:
        reason = f"expected {' or '.join(DTYPES)} [n, d], got {rows.dtype} {list(rows.shape)}"
        raise EmbeddingsError(reason, file=path)
    return rows


def _read_parquet(path: Path, read: Any) -> Any:
    """What a function of pyarrow reads from a file. An EmbeddingsError names a damaged file."""
    arrow, _ = pyarrow_modules()
    try:
        with open_file(path) as file:
            return read(file)
    except MemoryError:
        raise
    except (arrow.ArrowException, UnicodeDecodeError) as error:
        raise EmbeddingsError(f"damaged: {first_line(error)}", file=path) from error
    except OSError as error:
        raise EmbeddingsError(f"cannot be read: {first_line(error)}", file=path) from error


def _recorded(path: Path, kind: ItemKind) -> tuple[dict[str, Any], str] | None:
    """The model and precision that `write_clip_retrieval` recorded for embeddings of a kind."""
    _, parquet = pyarrow_modules()
    recorded = (_read_parquet(path, parquet.read_schema).metadata or {}).get(MARK)
    if recorded is None:
        return None
    try:
        mark = json.loads(recorded)
        model = {name: str(mark["model"][name]) for name in ("name", "digest")}
        sizes = {name: int(mark["model"][name]) for name in ("embed_dim", "resolution")}
        return ({**model, **sizes}, str(mark["precision"])) if mark["kind"] == kind else None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        reason = f"damaged: its description of the model is no JSON of cnclip ({error!r:.60})"
        raise EmbeddingsError(reason, file=path) from error
