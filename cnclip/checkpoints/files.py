"""Finds the format of a checkpoint and its files. Needs no torch."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .._files import ZIP_ERRORS
from .._text import first_line, type_and_line
from ..errors import CheckpointError
from .config_file import ConfigFile, read_small

WEIGHTS = "pytorch_model.bin"
VOCABULARY = "vocab.txt"
# Files of ModelScope.
VISION_CONFIG = "vision_model_config.json"
TEXT_CONFIG = "text_model_config.json"
PIPELINE_CONFIG, OWN_ENTRY = "configuration.json", "cnclip"  # may be missing
# Files of Hugging Face.
CONFIG = "config.json"
PREPROCESSOR_CONFIG = "preprocessor_config.json"
TOKENIZER = "tokenizer.json"
SAFETENSORS_SUFFIX = ".safetensors"
SAFETENSORS = "model" + SAFETENSORS_SUFFIX
INDEX_SUFFIX = ".index.json"
# The start of the zips that torch writes; older versions wrote several pickles in a row.
ZIP_MAGIC = b"PK\x03\x04"
MODELSCOPE_FILES = (WEIGHTS, VISION_CONFIG, TEXT_CONFIG, VOCABULARY)
HUGGINGFACE_FILES = (CONFIG, VOCABULARY, TOKENIZER, PREPROCESSOR_CONFIG)
# In the order in which transformers looks for them; each may be whole, or in shards with an index.
HUGGINGFACE_WEIGHTS = (SAFETENSORS, WEIGHTS)


@dataclass(frozen=True)
class CheckpointFiles:
    """The files of a checkpoint."""

    format: str  # "modelscope", "huggingface" or "cn_clip"
    path: Path  # the directory, or the file of cn_clip
    files: tuple[Path, ...]  # all whose content is used
    weights: tuple[Path, ...]  # those of `files` that hold tensors, and their index


def find_checkpoint(path: Path) -> CheckpointFiles:
    """The checkpoint at a path: a model directory, or a file of cn_clip.

    Raises:
        CheckpointError: a directory of no known format; names the missing files. Or a damaged
            file of weights in torch's format.
    """
    try:
        found = _find(path)
        for file in found.weights:
            _check_zip(file)  # before all of it is read
    except OSError as error:
        raise CheckpointError(f"cannot be read: {first_line(error)}", file=path) from error
    return found


def _find(path: Path) -> CheckpointFiles:
    if not path.is_dir():
        if not path.is_file():  # reading a pipe or device may never end
            raise CheckpointError("expected a file or a model directory", file=path)
        return CheckpointFiles("cn_clip", path, (path,), (path,))
    missing = [name for name in MODELSCOPE_FILES if not (path / name).is_file()]
    if not missing:
        more = () if own_settings(path) is None else (PIPELINE_CONFIG,)
        files = tuple(path / name for name in (*MODELSCOPE_FILES, *more))
        return CheckpointFiles("modelscope", path, files, (path / WEIGHTS,))
    is_modelscope = not {VISION_CONFIG, TEXT_CONFIG} <= set(missing)
    if (path / CONFIG).is_file() and not is_modelscope:
        return _find_huggingface(path)
    if is_modelscope:
        raise CheckpointError(
            f"not a ModelScope model directory: missing {', '.join(missing)}", file=path
        )
    raise CheckpointError(
        f"not a model directory: it has neither {VISION_CONFIG} (ModelScope) nor {CONFIG} "
        "(Hugging Face)",
        file=path,
    )


def own_settings(directory: Path) -> ConfigFile | None:
    """Our entry of a ModelScope directory's configuration.json; None if there is none."""
    path = directory / PIPELINE_CONFIG
    if not path.is_file() or f'"{OWN_ENTRY}"'.encode() not in read_small(path, 1 << 20):
        return None
    return ConfigFile(path).part(OWN_ENTRY)


def _find_huggingface(path: Path) -> CheckpointFiles:
    weights = _huggingface_weights(path)
    words = next((n for n in (VOCABULARY, TOKENIZER) if (path / n).is_file()), None)
    if words is None:
        raise CheckpointError(f"it has neither {VOCABULARY} nor {TOKENIZER}", file=path)
    names = [CONFIG, words, PREPROCESSOR_CONFIG]
    files = [path / name for name in names if (path / name).is_file()]
    return CheckpointFiles("huggingface", path, (*files, *weights), weights)


def _huggingface_weights(path: Path) -> tuple[Path, ...]:
    """The files that transformers loads: safetensors first, whole files before shards."""
    for name in HUGGINGFACE_WEIGHTS:
        if (path / name).is_file():
            return (path / name,)
        index = path / (name + INDEX_SUFFIX)
        if index.is_file():
            return (index, *_shards(index))
    raise CheckpointError(
        f"it has no weights: neither {SAFETENSORS} nor {WEIGHTS} nor an index of shards", file=path
    )


def _shards(index: Path) -> list[Path]:
    """The files that an index names."""
    names = ConfigFile(index).part("weight_map").values.values()
    for name in names:
        # A name with a folder could be that of any file.
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(
                f"expected names of files in its folder, found {name!r:.100}", file=index
            )
        if not os.path.isfile(index.parent / name):
            raise CheckpointError(f"there is no file {name!r:.100}", file=index)
    return [index.parent / name for name in sorted(set(names))]


def _check_zip(path: Path) -> None:
    """Refuse a zip with compressed parts, or with parts that claim more bytes than the file has."""
    with path.open("rb") as file:
        if file.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
            return
    try:
        with zipfile.ZipFile(path) as parts:
            entries = parts.infolist()
    except ZIP_ERRORS as error:
        raise CheckpointError(f"damaged: {type_and_line(error)}", file=path) from error
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise CheckpointError(
                f"damaged: {entry.filename!r:.80} is compressed, unlike torch's files", file=path
            )
    claimed = sum(entry.file_size for entry in entries)
    if claimed > path.stat().st_size:
        raise CheckpointError(f"damaged: its parts claim {claimed} bytes", file=path)
