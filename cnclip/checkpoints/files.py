"""Which format a checkpoint has, and which files make it. Needs no torch."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ..archive import ZIP_ERRORS
from ..errors import CheckpointError
from .config_file import read_json

WEIGHTS = "pytorch_model.bin"
VOCABULARY = "vocab.txt"
# ModelScope's.
VISION_CONFIG = "vision_model_config.json"
TEXT_CONFIG = "text_model_config.json"
# Hugging Face's.
CONFIG = "config.json"
PREPROCESSOR_CONFIG = "preprocessor_config.json"
TOKENIZER = "tokenizer.json"
SAFETENSORS_SUFFIX = ".safetensors"
SAFETENSORS = "model" + SAFETENSORS_SUFFIX
INDEX_SUFFIX = ".index.json"
# Of the zips that torch writes; before them it wrote pickles one behind the other.
ZIP_MAGIC = b"PK\x03\x04"
# Of safetensors; those of published models have less than 100 kB.
_MAX_HEADER = 1 << 24

_MODELSCOPE = (WEIGHTS, VISION_CONFIG, TEXT_CONFIG, VOCABULARY)


@dataclass(frozen=True)
class Source:
    """A checkpoint as it lies on disk.

    Attributes:
        format: "modelscope", "huggingface" or "cn_clip".
        path: The directory, or cn_clip's file.
        files: Those whose content makes the checkpoint.
        weights: Those of them that hold tensors.
    """

    format: str
    path: Path
    files: tuple[Path, ...]
    weights: tuple[Path, ...]


def find_source(path: Path) -> Source:
    """The checkpoint at a path: a model directory, or a file of cn_clip's.

    Raises:
        CheckpointError: a directory of no known format, of which it names the files that it lacks;
            or a file of weights that is shorter or longer than it says.
    """
    try:
        source = _find(path)
        for file in source.weights:
            check_whole(file)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    return source


def _find(path: Path) -> Source:
    if not path.is_dir():
        if not path.is_file():  # a pipe would wait, a device may never end
            raise CheckpointError(f"{path}: expected a file or a model directory")
        return Source("cn_clip", path, (path,), (path,))
    missing = [name for name in _MODELSCOPE if not (path / name).is_file()]
    if not missing:
        files = tuple(path / name for name in _MODELSCOPE)
        return Source("modelscope", path, files, (path / WEIGHTS,))
    is_modelscope = not {VISION_CONFIG, TEXT_CONFIG} <= set(missing)
    if (path / CONFIG).is_file() and not is_modelscope:
        return _find_huggingface(path)
    if is_modelscope:
        raise CheckpointError(
            f"{path}: not a ModelScope model directory: it has no {', '.join(missing)}"
        )
    raise CheckpointError(
        f"{path}: not a model directory: it has no {VISION_CONFIG} of ModelScope's and no {CONFIG} "
        "of Hugging Face's"
    )


def _find_huggingface(path: Path) -> Source:
    weights = _huggingface_weights(path)
    words = next((n for n in (VOCABULARY, TOKENIZER) if (path / n).is_file()), None)
    if words is None:
        raise CheckpointError(f"{path}: it has no {VOCABULARY} and no {TOKENIZER}")
    names = [CONFIG, words, PREPROCESSOR_CONFIG]
    files = [path / name for name in names if (path / name).is_file()]
    return Source("huggingface", path, (*files, *weights), weights)


def _huggingface_weights(path: Path) -> tuple[Path, ...]:
    """As transformers looks for them: safetensors first, and whole files before sharded ones."""
    for name in (SAFETENSORS, WEIGHTS):
        if (path / name).is_file():
            return (path / name,)
        index = path / (name + INDEX_SUFFIX)
        if index.is_file():
            return (index, *_shards(index))
    raise CheckpointError(
        f"{path}: it has no weights: none of {SAFETENSORS}, {WEIGHTS}, nor an index of shards"
    )


def _shards(index: Path) -> list[Path]:
    """The files that an index names, each once."""
    try:
        names = set(read_json(index)["weight_map"].values())
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: damaged: {error!r}") from error
    for name in names:
        # A name with a folder in it could reach any file of the user's.
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(
                f"{index}: expected names of files beside it, found {name!r:.100}"
            )
        if not os.path.isfile(index.parent / name):
            raise CheckpointError(f"{index}: there is no file {name!r:.100}")
    return [index.parent / name for name in sorted(names)]


def check_whole(path: Path) -> None:
    """Compare a file's size with what its head or its directory says, before all of it is read.

    Raises:
        CheckpointError: it is damaged.
        OSError: it cannot be read.
    """
    if path.suffix == ".json":  # an index of the others
        return
    with path.open("rb") as file:
        head = file.read(8)
    try:
        if path.suffix == SAFETENSORS_SUFFIX:
            _check_safetensors(path, int.from_bytes(head, "little"))
        elif head.startswith(ZIP_MAGIC):
            _check_zip(path)
    except CheckpointError:
        raise
    except ZIP_ERRORS as error:
        raise CheckpointError(f"{path}: damaged: {error!r:.200}") from error


def _check_safetensors(path: Path, header_size: int) -> None:
    """Refuse a file that does not end where its last tensor does."""
    size = path.stat().st_size
    if header_size > min(size - 8, _MAX_HEADER):
        raise CheckpointError(f"{path}: damaged: its header claims {header_size} bytes")
    with path.open("rb") as file:
        file.seek(8)
        try:
            header = json.loads(file.read(header_size))
            header.pop("__metadata__", None)
            ends = (tensor["data_offsets"][1] for tensor in header.values())
            expected = 8 + header_size + max(ends, default=0)
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path}: damaged: its header: {error!r:.200}") from error
    if size != expected:
        raise CheckpointError(f"{path}: damaged: {size} bytes, its header says {expected}")


def _check_zip(path: Path) -> None:
    """Refuse parts that claim more bytes than the file has: torch writes them uncompressed."""
    with zipfile.ZipFile(path) as file:
        for entry in file.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise CheckpointError(
                    f"{path}: damaged: {entry.filename!r:.80} is compressed, which torch never does"
                )
        claimed = sum(entry.file_size for entry in file.infolist())
    if claimed > path.stat().st_size:
        raise CheckpointError(f"{path}: damaged: its parts claim {claimed} bytes")
