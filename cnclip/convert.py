"""Writing models: an archive, or a checkpoint in the format of other software."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ._checks import check_integer, requires_extra
from ._files import directory_replaced_atomically, replaced_atomically
from .archive import CHECKPOINT_SUFFIXES, SUFFIX, is_archive, read_archive
from .checkpoints.files import CheckpointFiles, find_checkpoint
from .errors import (
    CheckpointError,
    InvalidInputError,
    OutputDirectoryError,
    OutputExistsError,
)
from .models import find_model, origin_of, read_files, read_known_archive

if TYPE_CHECKING:
    from .checkpoints.checkpoint import Checkpoint, Hints

FORMATS = ("archive", "modelscope", "cn_clip", "huggingface", "onnx")
_DIRECTORIES = ("modelscope", "huggingface", "onnx")


def convert(
    source: str | Path,
    output: str | Path,
    *,
    to: str = "archive",
    vision_head_width: int | None = None,
    text_head_width: int | None = None,
    vocabulary: str | Path | None = None,
    half: bool = False,
    allow_nonfinite: bool = False,
    revision: str | None = None,
) -> Path:
    """Convert a model to an archive, or to the format of other software.

    Args:
        source: A checkpoint or an archive, as for `cnclip.models.open_archive`.
        output: The file (`'archive'`, `'cn_clip'`) or directory (other formats) to write. A
            directory must be empty or not exist. The output appears as a whole when the conversion
            is complete.
        to: One of FORMATS. Weights keep the types that the source stores; for `'onnx'` they are
            float32.
        vision_head_width: For a `.pt` file whose tensors do not determine it: columns of one
            attention head of the vision tower.
        text_head_width: For a `.pt` file: columns of one attention head of the text tower.
        vocabulary: For a `.pt` file: its vocab.txt, if it is not that of the published models.
        half: For `'onnx'`: round the weights that ModelScope's software rounds to float16, and
            store most of them in that type. Rows are computed in float32.
        allow_nonfinite: Accept weights that are NaN or infinite, for example of a failed training.
        revision: Branch, tag or commit of a model on a hub.

    Returns:
        The output's path.

    Raises:
        ModelNotFoundError: there is no such source.
        CheckpointError: the source cannot be converted; names the file or tensor. Or the rows of
            ONNX Runtime are not those of torch.
        InvalidInputError: an unknown format, an option that the source does not need, or an output
            that is the source itself or cannot be written: also a FileNotFoundError if its
            directory does not exist, a FileExistsError if a directory is not empty.
        InputTypeError: a head width is not an integer.
        MissingExtraError: a package that the format requires is not installed.
        OSError: the output cannot be written; names the file.
    """
    from .checkpoints.archive import read_archived, write_archive

    _check_format(to, half)
    target = Path(output)
    _check_target(target, to)
    hints = _hints(vision_head_width, text_head_width, vocabulary)
    path = find_model(source, revision)
    found = None if is_archive(path) else find_checkpoint(path.resolve())
    _check_source(path, found, target, to, hints)
    checkpoint = read_archived(path) if found is None else read_files(found, hints)
    if to not in ("archive", "onnx"):
        _write_other(checkpoint, path, target, to, allow_nonfinite)
        return target
    origin = read_archive(path).metadata["source"] if found is None else origin_of(found)
    if to == "onnx":
        from .checkpoints.onnx import write_onnx

        with directory_replaced_atomically(target) as temporary:
            write_onnx(
                checkpoint, temporary, path, origin, half=half, allow_nonfinite=allow_nonfinite
            )
        return target
    with replaced_atomically(target) as temporary:
        write_archive(checkpoint, temporary, path, origin, allow_nonfinite=allow_nonfinite)
    return target


def _check_format(to: str, half: bool) -> None:
    """Refuse a format that is unknown or requires a package that is not installed."""
    if to not in FORMATS:
        raise InvalidInputError(f"expected one of {', '.join(FORMATS)}, got {to!r}", item="to")
    if half and to != "onnx":
        raise InvalidInputError("is for 'onnx'; other formats keep the types", item="half")
    if to == "onnx":
        with requires_extra("onnx", "onnx"):
            import onnx  # noqa: F401


def _check_target(target: Path, to: str) -> None:
    """Refuse an output that cannot be written, before any work is done."""
    if not os.path.isdir(target.parent):
        raise OutputDirectoryError(f"there is no directory {target.parent}", file=target)
    if to in _DIRECTORIES:
        is_empty = target.is_dir() and not target.is_symlink() and not any(target.iterdir())
        if os.path.lexists(target) and not is_empty:
            raise OutputExistsError("exists; choose a new or an empty directory", file=target)
    elif os.path.isdir(target):
        raise InvalidInputError("is a directory, expected a file name", file=target)
    elif os.path.lexists(target) and not os.path.isfile(target):
        raise InvalidInputError("exists and is not a regular file", file=target)
    elif to == "cn_clip" and (
        target.name.endswith(SUFFIX) or target.suffix not in CHECKPOINT_SUFFIXES
    ):
        raise InvalidInputError(
            f"expected a name that ends in .pt and not in {SUFFIX}", file=target
        )
    if not target.name or "\0" in target.name:
        reason = f"expected a name of a file or folder, got {str(target)!r}"
        raise InvalidInputError(reason, item="output")


def _check_source(
    path: Path, found: CheckpointFiles | None, target: Path, to: str, hints: Hints | None
) -> None:
    """Refuse options that the model does not need, and to overwrite a file of the model.

    Args:
        path: The model.
        found: Its files; None for an archive.
        target: The output.
        to: The format of the output.
        hints: The options for .pt files.
    """
    if found is None:
        read_known_archive(path)  # which reports a damaged one
    if found is None and to == "archive":
        raise InvalidInputError("is an archive already; choose another format with `to`", file=path)
    if found is not None and hints is not None and found.format != "cn_clip":
        raise InvalidInputError(
            "head widths and a vocabulary can only be set for .pt files; this model "
            "records its own",
            file=path,
        )
    files = [path] if found is None else found.files
    if os.path.exists(target) and any(target.samefile(file) for file in files):
        raise InvalidInputError("is part of the model to convert", file=target)


def _hints(
    vision_head_width: int | None, text_head_width: int | None, vocabulary: str | Path | None
) -> Hints | None:
    from .checkpoints.checkpoint import Hints
    from .checkpoints.vocabulary import read_vocabulary

    for name, width in (("vision", vision_head_width), ("text", text_head_width)):
        if width is not None:
            check_integer(width, f"{name}_head_width")
    if (vision_head_width, text_head_width, vocabulary) == (None, None, None):
        return None
    words = None if vocabulary is None else read_vocabulary(Path(vocabulary))
    return Hints(vision_head_width, text_head_width, words)


def _write_other(
    checkpoint: Checkpoint, source: Path, target: Path, to: str, allow_nonfinite: bool
) -> None:
    """Write a checkpoint in the format of other software, after its weights were checked."""
    from .checkpoints.archive import check_weights
    from .checkpoints.cn_clip import write_cn_clip
    from .checkpoints.huggingface import write_huggingface
    from .checkpoints.modelscope import write_modelscope

    check_weights(checkpoint, source, allow_nonfinite=allow_nonfinite)
    try:
        if to == "cn_clip":
            with replaced_atomically(target) as temporary:
                write_cn_clip(checkpoint, temporary)
            return
        write = {"modelscope": write_modelscope, "huggingface": write_huggingface}[to]
        with directory_replaced_atomically(target) as temporary:
            write(checkpoint, temporary)
    except CheckpointError as error:
        raise error.at(file=source) from error
