"""Which format a checkpoint has, and which files make it. Needs no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError

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
        CheckpointError: a directory of no known format; names the files that it lacks.
    """
    if not path.is_dir():
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
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: damaged: {error!r}") from error
    for name in names:
        # A name with a folder in it could reach any file of the user's.
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(
                f"{index}: expected names of files beside it, found {name!r:.100}"
            )
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index}: there is no file {name}")
    return [index.parent / name for name in sorted(names)]
