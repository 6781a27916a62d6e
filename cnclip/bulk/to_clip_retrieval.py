"""Writes embeddings in clip-retrieval's layout, next to the shards of their folder.

`clip_retrieval.py` has the layout. Numbers have as many digits as the number of files, so that
names are in the order of numbers.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

from .._files import (
    directory_replaced_atomically,
    write_durably,
)
from .._temporaries import remove, remove_temporaries, temporary_name
from ..errors import EmbeddingsError
from ..preprocessors.image import is_url
from ..sources import pyarrow_modules
from .clip_retrieval import MARK, METADATA, PART, VECTORS
from .folder import Embeddings, path_of
from .outcomes import is_path_of


def write_clip_retrieval(embeddings: Embeddings) -> None:
    """Write the embeddings of a folder in clip-retrieval's layout, into the same folder.

    The .npy files are hard links to the shards, or copies where the file system has no links.
    While the former files are replaced there is no `metadata`, so that no program reads lines of
    other embeddings.

    Args:
        embeddings: A folder that cnclip wrote, and that this process has locked.

    Raises:
        EmbeddingsError: a subfolder of this name holds other files, or a shard is damaged.
        OSError: a file cannot be written.
    """
    folder, kind = embeddings.path, embeddings.kind
    vectors, metadata = folder / VECTORS[kind], folder / METADATA
    _check_replaceable(folder)
    for path in (vectors, metadata):
        remove_temporaries(path)
    with (
        directory_replaced_atomically(metadata) as new_metadata,
        directory_replaced_atomically(vectors, temporary_name(vectors)) as new_vectors,
    ):
        shards = [shard for shard in embeddings.manifest.shards if shard.rows]
        blocks = (block for block in embeddings.blocks() if len(block.vectors))
        digits = len(str(len(shards)))
        for number, (shard, block) in enumerate(zip(shards, blocks, strict=True)):
            numbered = f"{number:0{digits}}"
            _link(path_of(folder, shard, "npy"), new_vectors / f"{vectors.name}_{numbered}.npy")
            content = _metadata(embeddings, block.lines)
            write_durably(new_metadata / f"{METADATA}_{numbered}.parquet", content)
        _remove_at_once(metadata)


def remove_clip_retrieval(folder: Path) -> None:
    """Remove what `write_clip_retrieval` wrote.

    Raises:
        EmbeddingsError: one of its subfolders holds other files.
    """
    _check_replaceable(folder)
    for name in (METADATA, *VECTORS.values()):
        remove_temporaries(folder / name)
        _remove_at_once(folder / name)


def _check_replaceable(folder: Path) -> None:
    for name in (METADATA, *VECTORS.values()):
        place = folder / name
        if not os.path.lexists(place):
            continue
        others = [
            path
            for path in (place.iterdir() if place.is_dir() else [place])
            if not path.name.startswith(f"{name}_") or not PART.fullmatch(path.name)
        ]
        if others:
            reason = f"holds other files than clip-retrieval's, such as {others[0].name}; move them"
            raise EmbeddingsError(reason, file=place)


def _remove_at_once(folder: Path) -> None:
    if folder.exists():
        former = temporary_name(folder)
        folder.rename(former)
        remove(former)


def _link(source: Path, path: Path) -> None:
    try:
        os.link(source, path)
    except OSError:
        shutil.copyfile(source, path)


def _metadata(embeddings: Embeddings, lines: Any) -> bytes:
    """The metadata of a shard's rows, a Parquet file."""
    arrow, parquet = pyarrow_modules()
    ids = lines.column("id").to_pylist()
    if embeddings.kind == "texts":
        columns = {"caption": lines.column("text"), "id": lines.column("id")}
    else:
        paths = lines.column("path").to_pylist()
        # Of an image in an archive, the path is that of the archive, which is no image.
        places = [p if is_path_of(id, p) else id for id, p in zip(ids, paths, strict=True)]
        urls = [path if is_url(path) else None for path in paths]
        columns = {
            "image_path": arrow.array(places, arrow.string()),
            "url": arrow.array(urls, arrow.string()),
            **{name: lines.column(name) for name in ("id", "width", "height", "sha256", "caption")},
        }
    mark = {"kind": embeddings.kind, "model": embeddings.model, "precision": embeddings.precision}
    table = arrow.table(columns).replace_schema_metadata({MARK: json.dumps(mark)})
    content = io.BytesIO()
    parquet.write_table(table, content, compression="zstd")
    return content.getvalue()
