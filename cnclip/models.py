"""Opening models: from a name, path or hub id to an archive or a checkpoint.

Only converting a checkpoint, which happens once per model, imports Python's torch.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from . import cache
from ._text import first_line
from .archive import ArchiveInfo, is_archive, read_archive
from .assets import asset_path
from .checkpoints.file_kinds import check_kind
from .checkpoints.files import CheckpointFiles, find_checkpoint
from .engine.libtorch import find_torch
from .errors import ArchiveError, CheckpointError, InputTypeError, ModelNotFoundError
from .hub import PREFIXES, download, parse_hub_name

if TYPE_CHECKING:
    from .checkpoints.checkpoint import Checkpoint, Hints

logger = logging.getLogger("cnclip")

BUNDLED_MODELS = {"emoji-cn": asset_path("emoji-cn")}


def find_model(
    name: str | Path, revision: str | None = None, *, local_files_only: bool = False
) -> Path:
    """The archive or checkpoint of a model, downloaded from a hub if necessary.

    The name of a bundled model has precedence over a path: write `./emoji-cn` for a folder of that
    name. A path has precedence over a hub id: write `hf:OWNER/MODEL` or `ms:OWNER/MODEL` for a
    model on a hub.

    Args:
        name: The name of a bundled model, a path, or a hub id as for `parse_hub_name`.
        revision: Branch, tag or commit of a model on a hub; ignored for other models.
        local_files_only: Use only files of a hub's model that were downloaded before.

    Raises:
        ModelNotFoundError: there is no such model.
        HubError, MissingExtraError: the model cannot be downloaded.
    """
    if str(name) in BUNDLED_MODELS:
        return BUNDLED_MODELS[str(name)]
    if not isinstance(name, str | os.PathLike):
        raise InputTypeError(f"expected a name or path, got {type(name).__name__}", item="model")
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
            f"no model {str(name)!r}: neither an existing path nor a bundled model "
            f"({', '.join(BUNDLED_MODELS)}); for a model on a hub write hf:OWNER/MODEL or "
            "ms:OWNER/MODEL"
        )
    return path


def open_archive(
    name: str | Path, revision: str | None = None, *, local_files_only: bool = False
) -> ArchiveInfo:
    """The archive of a model. A checkpoint is converted the first time, and then cached.

    Args:
        name: An archive; a model directory of ModelScope or Hugging Face; a `.pt` file of cn_clip;
            the name of a bundled model, or a hub id (see `find_model`).
        revision: Branch, tag or commit of a model on a hub.
        local_files_only: Use only files of a hub's model that were downloaded before.

    Raises:
        ModelNotFoundError: there is no such model.
        HubError, MissingExtraError: the model cannot be downloaded.
        ArchiveError: the file is not an archive, or is damaged.
        CheckpointError: the checkpoint cannot be converted.
    """
    path = find_model(name, revision, local_files_only=local_files_only)
    if is_archive(path):
        info = read_known_archive(path)
        cache.check_once(path)
        return info
    found = find_checkpoint(path.resolve())
    origin = origin_of(found)

    def write(output: Path) -> None:
        from .checkpoints.archive import write_archive

        logger.info("converting %s", found.path)
        write_archive(read_files(found), output, found.path, origin)

    return read_archive(cache.cached_archive(found.path.name, origin["digest"], write))


def read_known_archive(path: Path) -> ArchiveInfo:
    """As `read_archive`, for a file of a user, which may be something else, such as a web page.

    Raises:
        ArchiveError: it is something else, and what; or as for `read_archive`.
    """
    try:
        if path.is_file():
            check_kind(path)
    except CheckpointError as error:
        raise ArchiveError(error.reason, error.where) from error
    except OSError:
        pass  # which read_archive reports
    return read_archive(path)


def read_checkpoint(
    name: str | Path, revision: str | None = None, hints: Hints | None = None
) -> Checkpoint:
    """The sizes, weights and vocabulary of a model. Reading an archive runs the code in it.

    Args:
        name: As for `open_archive`.
        revision: Branch, tag or commit of a model on a hub.
        hints: As for `read_files`.

    Raises:
        ModelNotFoundError: there is no such model.
        HubError, MissingExtraError: the model cannot be downloaded.
        EngineError: torch is not installed.
        ArchiveError: the file is not an archive, or is damaged.
        CheckpointError: the checkpoint cannot be used; names the file or tensor.
    """
    find_torch()
    from .checkpoints.archive import check_weights, read_archived

    path = find_model(name, revision)
    if is_archive(path):
        read_known_archive(path)
        checkpoint = read_archived(path)
    else:
        checkpoint = read_files(find_checkpoint(path.resolve()), hints)
    check_weights(checkpoint, path)
    return checkpoint


def read_files(found: CheckpointFiles, hints: Hints | None = None) -> Checkpoint:
    """Read the files of a checkpoint with the reader of its format; only cn_clip's needs hints.

    Raises:
        EngineError: torch is not installed.
        CheckpointError: the checkpoint cannot be used; names the file or tensor.
    """
    find_torch()
    from .checkpoints.cn_clip import read_cn_clip
    from .checkpoints.huggingface import read_huggingface
    from .checkpoints.modelscope import read_modelscope

    try:
        if found.format == "modelscope":
            return read_modelscope(found)
        if found.format == "huggingface":
            return read_huggingface(found)
        return read_cn_clip(found, hints)
    except OSError as error:
        raise CheckpointError(f"cannot be read: {first_line(error)}", file=found.path) from error


def origin_of(found: CheckpointFiles) -> dict[str, str]:
    """The facts that an archive records of its checkpoint: `format`, `name` and `digest`.

    The digest is a SHA-256 of the names and contents of the checkpoint's files.

    Raises:
        CheckpointError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for file in found.files:
        try:
            digest.update(f"{file.name}\0{cache.remembered_sha256(file)}\n".encode())
        except OSError as error:
            raise CheckpointError(f"cannot be read: {first_line(error)}", file=file) from error
    return {"format": found.format, "name": found.path.name, "digest": digest.hexdigest()}
