"""`cnclip index OUT|FOLDER -o NAME.index`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .._text import counted
from ..errors import CnclipError, InvalidInputError, ModelMismatchError
from ._arguments import (
    add_decode_argument,
    add_formats_argument,
    add_model_arguments,
    add_pixels_argument,
    add_resize_argument,
    add_root_argument,
    check_output_file,
    open_pipeline,
    print_embedded,
    print_message,
)

if TYPE_CHECKING:
    from ..bulk import Embeddings
    from ..pipelines import MultiModalEmbeddingPipeline
    from ..search import Index, Root

SUMMARY = "build a search index of images or embeddings"

# Files that show whether the embeddings' files are gone.
_FILES_TRIED = 1000


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.description = (
        "Build an index of the embeddings that `cnclip embed` or clip-retrieval wrote, or of a "
        "folder of images, which is embedded first. Exit status 1 if images could not be read; "
        "each is named."
    )
    parser.add_argument(
        "source", metavar="OUT|FOLDER", type=Path, help="embeddings, or a folder of images"
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="NAME.index",
        required=True,
        help="the file to write; or http://HOST:PORT of Milvus or NAME.db of Milvus Lite, to bring "
        "a collection there up to date",
    )
    add_root_argument(parser)
    add_model_arguments(parser, recorded=True)
    parser.add_argument(
        "--kind",
        choices=("auto", "exact", "hnsw", "ivfpq"),
        default="auto",
        help="auto (the default): exact up to 200,000 embeddings, HNSW up to 2,000,000, then "
        "IVF-PQ",
    )
    parser.add_argument(
        "--embeddings",
        metavar="DIR",
        type=Path,
        help="folder that keeps the embeddings of the images for the next run (default: "
        "NAME.embeddings)",
    )
    parser.add_argument(
        "--texts",
        action="store_true",
        help="of clip-retrieval's folder with images and texts: index the texts",
    )
    add_decode_argument(parser)
    add_resize_argument(parser)
    add_formats_argument(parser)
    add_pixels_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Embed if needed, build the index, and describe it."""
    from ..bulk import open_embeddings
    from ..bulk.clip_retrieval import is_clip_retrieval
    from ..bulk.folder import MANIFEST, UNFINISHED
    from ..search import Root, index_embeddings
    from ..search.milvus import hide_logs, is_milvus
    from ..search.moved import gone_message
    from ..search.vectors import import_faiss

    source: Path = arguments.source
    remote = is_milvus(arguments.output)
    root = None if arguments.root is None else Root(arguments.root)
    hide_logs(arguments.output)
    if not remote:
        import_faiss()  # not after an hour of embedding
        check_output_file(Path(arguments.output))
    if not source.is_dir():
        raise InvalidInputError("no such folder", file=source)
    failed = 0
    embedder: MultiModalEmbeddingPipeline | None = None
    embeddings: Embeddings | None = None
    recorded = any((source / name).exists() for name in (MANIFEST, UNFINISHED))
    is_other = not recorded and is_clip_retrieval(source)
    if arguments.decode is not None and (recorded or is_other):
        reason = "--decode is for a folder of images; this one has embeddings"
        raise InvalidInputError(reason, file=source)
    if is_other:
        embeddings, embedder = _open_clip_retrieval(arguments)
    elif arguments.texts:
        raise InvalidInputError("--texts is for clip-retrieval's folders", file=source)
    elif not recorded:
        folder = arguments.embeddings or Path(arguments.output).with_suffix(".embeddings")
        if "://" in arguments.output and arguments.embeddings is None:
            raise InvalidInputError("--embeddings: expected a folder, for images into Milvus")
        if root is not None:
            raise InvalidInputError("--root is for embeddings; name the folder as OUT|FOLDER")
        embedder = open_pipeline(arguments)
        failed = _embed(embedder, source, folder, replace=arguments.embeddings is None)
        source = folder
    if embeddings is None:
        embeddings = open_embeddings(source)
    if not embeddings.rows:
        raise InvalidInputError("has no embeddings to index", file=source)
    if (message := gone_message(_sample(embeddings, root))) is not None:
        print_message("index", message)
    if embedder is None and embeddings.model is not None:
        embedder = _model_of(arguments, embeddings.model, embeddings.precision)
    if remote:
        _update(arguments, embeddings, root)
    else:
        index = index_embeddings(embeddings, kind=arguments.kind, root=root, show_progress=True)
        index.prepare(embedder)
        index.save(arguments.output)
        print(_described(index))
    return 1 if failed else 0


def _update(arguments: argparse.Namespace, embeddings: Embeddings, root: Root | None) -> None:
    """Bring a collection in Milvus up to date."""
    from ..search import connect, update_embeddings

    collection = connect(
        arguments.output,
        arguments.collection,
        dim=embeddings.dim,
        model=embeddings.model,
        precision=embeddings.precision,
        contents=embeddings.kind,
        image_options=embeddings.manifest.image_options,
        token=arguments.token,
        database=arguments.database,
    )
    done = update_embeddings(collection, embeddings, root=root, show_progress=True)
    print(
        f"{collection.name}: {counted(done.added, embeddings.kind)} added, "
        f"{done.replaced} replaced, "
        f"{done.removed} removed"
    )


def _open_clip_retrieval(
    arguments: argparse.Namespace,
) -> tuple[Embeddings, MultiModalEmbeddingPipeline | None]:
    """The embeddings of clip-retrieval's folder, and the model that --model names."""
    from ..bulk import open_clip_retrieval

    embedder = None if arguments.model is None else open_pipeline(arguments)
    kind: Literal["texts"] | None = "texts" if arguments.texts else None
    embeddings = open_clip_retrieval(arguments.source, kind, pipeline=embedder)
    if embeddings.model is None:
        print_message(
            "index",
            f"{arguments.source} does not record the model of its embeddings, so that queries "
            "cannot be compared with it; name it as --model if cnclip opens it",
        )
    return embeddings, embedder


def _sample(embeddings: Embeddings, root: Root | None) -> list[str]:
    """The paths of items at even distances, with their new places."""
    step = max(1, embeddings.rows // _FILES_TRIED)
    found = []
    for first, _, lines in embeddings.blocks():
        if not lines.num_rows:  # columns without values have no type
            continue
        some = lines.take(list(range(-first % step, lines.num_rows, step)))
        ids, paths = (some.column(name).to_pylist() for name in ("id", "path"))
        for id, path in zip(ids, paths, strict=True):
            found.append(path if root is None else root.place(id, path)[1])
    return found


def _described(index: Index) -> str:
    """A description of an index that was saved, for people."""
    assert index.path is not None
    model = (index.model or {}).get("name", "an unknown model")
    lines = [
        f"{index.path} ({index.path.stat().st_size / 1e6:.1f} MB): "
        f"{counted(len(index), index.contents)}, {index.kind}; model {model}, {index.precision}"
    ]
    if index.measured is not None:
        measured = index.measured
        found = "" if index.kind == "exact" else f"recall@10 {measured.recall:.3f}, "
        lines.append(f"{found}{measured.milliseconds:.2f} ms a query, one at a time")
    for kind, threshold in sorted(index.thresholds.items()):
        lines.append(f"suggested threshold of {kind} queries: {threshold:.3f}")
    return "\n".join(lines)


def _embed(
    embedder: MultiModalEmbeddingPipeline, source: Path, folder: Path, *, replace: bool
) -> int:
    """Embed a folder of images; name and count those that fail."""
    from ..bulk import EmbedOptions, embed

    report = embed(source, embedder, folder, EmbedOptions(replace=replace), show_progress=True)
    print_embedded("index", report, f"all are in {folder}")
    return report.failed


def _model_of(
    arguments: argparse.Namespace, model: dict[str, Any], precision: str
) -> MultiModalEmbeddingPipeline | None:
    """The model of embeddings; None if it is not available and --model is not given."""
    from ..bulk import model_identity

    wanted = arguments.model or str(model["name"])
    try:
        embedder = open_pipeline(arguments, model=wanted, precision=precision)
        if model_identity(embedder)["digest"] != model["digest"]:
            reason = f"has vectors of {model['name']} ({model['digest'][:12]}), not of {wanted}"
            raise ModelMismatchError(reason, file=arguments.source)
    except MemoryError:
        raise
    except CnclipError as error:
        if arguments.model is not None:
            raise
        print_message(
            "index",
            f"without its model ({error}), no threshold is suggested for texts; pass --model",
        )
        return None
    return embedder
