"""Checkpoint to archive, and to the formats of others: needs Python's torch, once a model."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from . import cache
from .archive import CHECKPOINT_SUFFIXES, SUFFIX, ArchiveInfo, is_archive, read_archive
from .assets import asset_path
from .checkpoints.files import Source, find_source
from .errors import CheckpointError, InputTypeError, InvalidInputError, ModelNotFoundError
from .hub import PREFIXES, download, parse_hub_name

if TYPE_CHECKING:
    from .checkpoints.checkpoint import Checkpoint, Hints

logger = logging.getLogger("cnclip")

SHIPPED_MODELS = {"emoji-cn": asset_path("emoji-cn")}
# What `convert` writes.
FORMATS = ("archive", "modelscope", "cn_clip", "huggingface")


def find_model(
    name: str | Path, revision: str | None = None, *, local_files_only: bool = False
) -> Path:
    """The archive or checkpoint that a model's name stands for, fetched from a hub if need be.

    A shipped model's name comes before a path, write `./emoji-cn` for a folder of that name; a path
    comes before a hub's name, write `hf:OWNER/MODEL` or `ms:OWNER/MODEL` for the hub's.

    Args:
        name: A shipped model's name, a path, or a name that `parse_hub_name` knows.
        revision: Of a hub's model; of others it is not used.
        local_files_only: Do not fetch: of a hub's models, take those that were fetched before.

    Raises:
        ModelNotFoundError: none of these.
        HubError, MissingExtraError: it cannot be fetched.
    """
    if str(name) in SHIPPED_MODELS:
        return SHIPPED_MODELS[str(name)]
    if not isinstance(name, str | os.PathLike):
        raise InputTypeError(f"model: expected a name or path, got {type(name).__name__}")
    path = Path(name)
    try:
        path = path.expanduser()
        exists = path.exists()
    except (OSError, RuntimeError):  # a name too long, or of a user who does not exist
        exists = False
    hub_name = parse_hub_name(str(name))
    if hub_name is not None and (str(name)[:3].lower() in PREFIXES or not exists):
        return download(*hub_name, revision, local_files_only=local_files_only)
    if not exists:
        raise ModelNotFoundError(
            f"no model {str(name)!r}: neither an existing path nor one of the shipped models "
            f"({', '.join(SHIPPED_MODELS)}); of a hub's model write hf:OWNER/MODEL or "
            "ms:OWNER/MODEL"
        )
    return path


def open_archive(
    name: str | Path, revision: str | None = None, *, local_files_only: bool = False
) -> ArchiveInfo:
    """The archive of a model, converted now if it is a checkpoint that has not been seen before.

    Args:
        name: An archive; a model directory of ModelScope's or Hugging Face's; a `.pt` file of
            cn_clip's; a shipped model's name, or a hub's (see `find_model`).
        revision: Of a hub's model.
        local_files_only: Of a hub's model: ask no network.

    Raises:
        ModelNotFoundError: there is nothing under this name.
        HubError, MissingExtraError: it cannot be fetched from its hub.
        ArchiveError: a file that is not an archive.
        CheckpointError: the checkpoint cannot be converted.
    """
    path = find_model(name, revision, local_files_only=local_files_only)
    if is_archive(path):
        info = read_archive(path)
        cache.check_once(path)
        return info
    source = find_source(path.resolve())
    digest = _digest_of(source)

    def write(output: Path) -> None:
        logger.info("converting %s", source.path)
        _write_archive(_read(source), source, digest, output)

    return read_archive(cache.cached_archive(source.path.name, digest, write))


def read_checkpoint(name: str | Path, revision: str | None = None) -> Checkpoint:
    """A model's sizes, weights and vocabulary, as for `open_archive`. Opening an archive runs it.

    Raises:
        ModelNotFoundError, HubError, MissingExtraError: as of `find_model`.
        ArchiveError: a file that is not an archive, or a damaged one.
        CheckpointError: the checkpoint cannot be used; names the file or tensor.
    """
    from .checkpoints.archive import check_weights, read_archived

    path = find_model(name, revision)
    checkpoint = read_archived(path) if is_archive(path) else _read(find_source(path.resolve()))
    check_weights(checkpoint, path)
    return checkpoint


def convert(
    source: str | Path,
    output: str | Path,
    *,
    to: str = "archive",
    vision_head_width: int | None = None,
    text_head_width: int | None = None,
    vocabulary: str | Path | None = None,
    allow_nonfinite: bool = False,
    revision: str | None = None,
) -> Path:
    """Convert a model to an archive, or to a format of others.

    Args:
        source: A checkpoint as for `open_archive`, or an archive.
        output: What to write, replaced as a whole when the conversion is done: a file for
            `'archive'` and `'cn_clip'`, else a directory, which must not exist or be empty.
        to: One of FORMATS. Weights keep the types that the source stores.
        vision_head_width: Of a `.pt` file whose tensors leave it open: columns of one attention
            head of the vision tower.
        text_head_width: The same of the text tower.
        vocabulary: Of a `.pt` file: its vocab.txt, where that is not the published models'.
        allow_nonfinite: Take weights that are NaN or infinite, as of a training that failed.
        revision: Of a hub's model.

    Returns:
        The output's path.

    Raises:
        ModelNotFoundError: there is no such source.
        CheckpointError: the source cannot be converted; names the file or tensor.
        InvalidInputError: no such format, an option that the source has no use for, or an output
            that cannot be, or is the source.
        OSError: the output cannot be written.
    """
    if to not in FORMATS:
        raise InvalidInputError(f"to: expected one of {', '.join(FORMATS)}, got {to!r}")
    target = Path(output)
    _check_target(target, to)
    hints = _hints(vision_head_width, text_head_width, vocabulary)
    path = find_model(source, revision)
    if is_archive(path):
        return _convert_archive(path, target, to, allow_nonfinite)
    found = find_source(path.resolve())
    if hints is not None and found.format != "cn_clip":
        raise InvalidInputError(
            f"{path}: tells its head widths and vocabulary itself; they are given for .pt files"
        )
    _check_not_source(target, found.files)
    checkpoint = _read(found, hints)
    if to == "archive":
        with cache.replaced_atomically(target, mode=0o666) as temporary:
            _write_archive(checkpoint, found, _digest_of(found), temporary, allow_nonfinite)
    else:
        _write_other(checkpoint, found.path, target, to, allow_nonfinite)
    return target


def _check_target(target: Path, to: str) -> None:
    """Refuse an output that cannot be, before any work."""
    if not os.path.isdir(target.parent):
        raise FileNotFoundError(f"{target}: there is no directory {target.parent}")
    if to in ("modelscope", "huggingface"):
        is_new = target.is_dir() and not target.is_symlink() and not any(target.iterdir())
        if os.path.lexists(target) and not is_new:
            raise FileExistsError(
                f"{target}: exists; name a directory that does not, or an empty one"
            )
    elif os.path.isdir(target):
        raise InvalidInputError(f"{target}: is a directory, expected a file name")
    elif os.path.lexists(target) and not os.path.isfile(target):
        raise InvalidInputError(f"{target}: exists and is no file")
    elif to == "cn_clip" and (
        target.name.endswith(SUFFIX) or target.suffix not in CHECKPOINT_SUFFIXES
    ):
        raise InvalidInputError(f"{target}: expected a name that ends in .pt and not in {SUFFIX}")
    if not target.name or "\0" in target.name:
        raise InvalidInputError(f"output: expected a name of a file or folder, got {str(target)!r}")


def _check_not_source(target: Path, files: Iterable[Path]) -> None:
    """Refuse to write over what is read."""
    if os.path.exists(target) and any(target.samefile(file) for file in files):
        raise InvalidInputError(f"{target}: is of the model that is to be converted")


def _convert_archive(path: Path, target: Path, to: str, allow_nonfinite: bool) -> Path:
    from .checkpoints.archive import read_archived

    read_archive(path)
    if to == "archive":
        raise InvalidInputError(f"{path}: is an archive already; choose another format with `to`")
    _check_not_source(target, [path])
    _write_other(read_archived(path), path, target, to, allow_nonfinite)
    return target


def _hints(
    vision_head_width: int | None, text_head_width: int | None, vocabulary: str | Path | None
) -> Hints | None:
    from .checkpoints.checkpoint import Hints
    from .checkpoints.vocabulary import read_vocabulary

    for name, width in (("vision", vision_head_width), ("text", text_head_width)):
        if width is not None and (type(width) is not int or width < 1):
            raise InvalidInputError(f"{name}_head_width: expected 1 or more, got {width!r}")
    if (vision_head_width, text_head_width, vocabulary) == (None, None, None):
        return None
    words = None if vocabulary is None else read_vocabulary(Path(vocabulary))
    return Hints(vision_head_width, text_head_width, words)


def _digest_of(source: Source) -> str:
    """The digest of a checkpoint's content."""
    try:
        return cache.digest_of(list(source.files))
    except OSError as error:
        raise CheckpointError(f"{source.path}: cannot be read: {error}") from error


def _read(source: Source, hints: Hints | None = None) -> Checkpoint:
    """The content of a checkpoint."""
    from .checkpoints.checkpoint import Hints as AllHints
    from .checkpoints.cn_clip import read_cn_clip
    from .checkpoints.huggingface import read_huggingface
    from .checkpoints.modelscope import read_modelscope

    readers: dict[str, Callable[[Source, Hints], Checkpoint]] = {
        "modelscope": read_modelscope,
        "cn_clip": read_cn_clip,
        "huggingface": read_huggingface,
    }
    try:
        return readers[source.format](source, hints or AllHints())
    except OSError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{source.path}: cannot be read: {error}") from error


def _write_archive(
    checkpoint: Checkpoint,
    source: Source,
    digest: str,
    output: Path,
    allow_nonfinite: bool = False,
) -> None:
    from .checkpoints.archive import write_archive

    origin = {"format": source.format, "name": source.path.name, "digest": digest}
    write_archive(checkpoint, output, source.path, origin, allow_nonfinite=allow_nonfinite)


def _write_other(
    checkpoint: Checkpoint, source: Path, target: Path, to: str, allow_nonfinite: bool
) -> None:
    """Write a checkpoint in a format of others, after the model was made once of its tensors."""
    from .checkpoints.archive import check_weights
    from .checkpoints.cn_clip import write_cn_clip
    from .checkpoints.huggingface import write_huggingface
    from .checkpoints.modelscope import write_modelscope

    check_weights(checkpoint, source, allow_nonfinite=allow_nonfinite)
    try:
        if to == "cn_clip":
            with cache.replaced_atomically(target, mode=0o666) as temporary:
                write_cn_clip(checkpoint, temporary)
            return
        write = {"modelscope": write_modelscope, "huggingface": write_huggingface}[to]
        with _made_atomically(target) as temporary:
            write(checkpoint, temporary)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error


@contextlib.contextmanager
def _made_atomically(path: Path) -> Iterator[Path]:
    """A temporary directory beside `path`, renamed to it when the block ends without an error."""
    temporary = cache.temporary_beside(path)
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
