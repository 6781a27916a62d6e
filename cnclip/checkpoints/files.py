"""Finds the format of a checkpoint and its files. Needs no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._text import first_line
from ..errors import CheckpointError
from .config_file import ConfigFile, read_json, read_small
from .file_kinds import ONNX, check_kind, check_zip

WEIGHTS = "pytorch_model.bin"
VOCABULARY = "vocab.txt"
# Files of ModelScope.
VISION_CONFIG = "vision_model_config.json"
TEXT_CONFIG = "text_model_config.json"
PIPELINE_CONFIG, OWN_ENTRY = "configuration.json", "cnclip"  # may be missing
# Files of Hugging Face.
CONFIG = "config.json"
PREPROCESSOR_CONFIG = "preprocessor_config.json"
# What transformers 5 writes in its place: an object that has the same settings inside.
PROCESSOR_CONFIG = "processor_config.json"
TOKENIZER = "tokenizer.json"
SAFETENSORS_SUFFIX = ".safetensors"
SAFETENSORS = "model" + SAFETENSORS_SUFFIX
INDEX_SUFFIX = ".index.json"
MODELSCOPE_FILES = (WEIGHTS, VISION_CONFIG, TEXT_CONFIG, VOCABULARY)
# Of ONNX, which is only written: the towers, the weights of large ones, and the description.
ONNX_TOWERS = {"image": "image.onnx", "text": "text.onnx"}
ONNX_SUFFIX, ONNX_DATA_SUFFIX = ".onnx", ".data"
ONNX_DESCRIPTION, ONNX_FORMAT = "cnclip.json", "onnx"
# Of adapters, which peft saves without the model.
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER = (
    "adapters of peft (LoRA) without the model that they change; add them to it with "
    "merge_and_unload(), and save that"
)
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
        CheckpointError: a directory of no known format; names the missing files. Or a file that is
            damaged or something else, such as a web page.
    """
    try:
        found = _find(path)
        for file in found.files:
            check_kind(file, weights=file in found.weights and file.suffix != ".json")
        for file in found.weights:
            check_zip(file)  # before all of it is read
    except OSError as error:
        raise CheckpointError(f"cannot be read: {first_line(error)}", file=path) from error
    return found


def _find(path: Path) -> CheckpointFiles:
    if not path.is_dir():
        if not path.is_file():  # reading a pipe or device may never end
            raise CheckpointError("expected a file or a model directory", file=path)
        return CheckpointFiles("cn_clip", path, (path,), (path,))
    layout = layout_of({entry.name for entry in path.iterdir() if entry.is_file()}, path)
    weights = [path / name for name in layout.weights]
    if layout.index is not None:
        weights += [path / name for name in shards_of(path / layout.index)]
        for shard in weights:
            if not shard.is_file():
                raise CheckpointError(
                    f"there is no file {shard.name!r:.100}", file=path / layout.index
                )
    # ModelScope's own configuration.json has nothing that is used.
    unused = () if own_settings(path) is not None else (PIPELINE_CONFIG,)
    settings = [path / name for name in layout.settings if name not in unused]
    # The order is part of a model's digest, which embeddings and indexes record.
    files = weights + settings if layout.format == "modelscope" else settings + weights
    return CheckpointFiles(layout.format, path, tuple(files), tuple(weights))


@dataclass(frozen=True)
class Layout:
    """The names of a checkpoint's files in a directory or on a hub."""

    format: str  # "modelscope" or "huggingface"
    settings: tuple[str, ...]  # small files: configurations and the vocabulary
    weights: tuple[str, ...]  # one file of tensors, or the index of several

    @property
    def index(self) -> str | None:
        """The index of the files of tensors, which `shards_of` reads; None if there is one file."""
        return next((name for name in self.weights if name.endswith(INDEX_SUFFIX)), None)


def layout_of(names: Collection[str], place: str | Path) -> Layout:
    """The files of a checkpoint among the files of a directory or of a model on a hub.

    Args:
        names: Their names.
        place: The directory or model, for messages.

    Raises:
        CheckpointError: they are of no known format; names the missing files.
    """
    missing = [name for name in MODELSCOPE_FILES if name not in names]
    if not missing:
        settings = tuple(name for name in MODELSCOPE_FILES if name != WEIGHTS)
        more = (PIPELINE_CONFIG,) if PIPELINE_CONFIG in names else ()
        return Layout("modelscope", (*settings, *more), (WEIGHTS,))
    is_modelscope = not {VISION_CONFIG, TEXT_CONFIG} <= set(missing)
    if CONFIG in names and not is_modelscope:
        return _huggingface_layout(names, place)
    if is_modelscope:
        raise CheckpointError(
            f"not a ModelScope model directory: missing {', '.join(missing)}", file=place
        )
    if ADAPTER_CONFIG in names:
        raise CheckpointError(ADAPTER, file=place)
    if any(name.endswith(ONNX_SUFFIX) for name in names):
        raise CheckpointError(f"a folder of {ONNX}", file=place)
    others = sorted(name for name in names if name.endswith((".pt", ".pth", ".ckpt")))
    hint = f"; to open {others[0]}, pass that file" if others else ""
    raise CheckpointError(
        f"not a model directory: it has neither {VISION_CONFIG} (ModelScope) nor {CONFIG} "
        f"(Hugging Face){hint}",
        file=place,
    )


def read_onnx_description(path: Path) -> Mapping[str, Any] | None:
    """The description of a model that was written as ONNX; None if there is none.

    Args:
        path: Its folder, or an ONNX file in it.

    Raises:
        CheckpointError: the description is damaged.
    """
    folder = path if path.is_dir() else path.parent
    file = folder / ONNX_DESCRIPTION
    if not (path.is_dir() or path.suffix == ONNX_SUFFIX) or not file.is_file():
        return None
    values = read_json(file)
    return values if values.get("format") == ONNX_FORMAT else None


def own_settings(directory: Path) -> ConfigFile | None:
    """Our entry of a ModelScope directory's configuration.json; None if there is none."""
    path = directory / PIPELINE_CONFIG
    if not path.is_file() or f'"{OWN_ENTRY}"'.encode() not in read_small(path, 1 << 20):
        return None
    return ConfigFile(path).part(OWN_ENTRY)


def _huggingface_layout(names: Collection[str], place: str | Path) -> Layout:
    weights = _huggingface_weights(names, place)
    words = next((name for name in (VOCABULARY, TOKENIZER) if name in names), None)
    if words is None:
        raise CheckpointError(f"it has neither {VOCABULARY} nor {TOKENIZER}", file=place)
    processors = (name for name in (PREPROCESSOR_CONFIG, PROCESSOR_CONFIG) if name in names)
    return Layout("huggingface", (CONFIG, words, *processors), (weights,))


def _huggingface_weights(names: Collection[str], place: str | Path) -> str:
    """The file that transformers loads: safetensors first, whole files before shards."""
    for name in HUGGINGFACE_WEIGHTS:
        for file in (name, name + INDEX_SUFFIX):
            if file in names:
                return file
    raise CheckpointError(
        f"it has no weights: neither {SAFETENSORS} nor {WEIGHTS} nor an index of shards",
        file=place,
    )


def shards_of(index: Path) -> list[str]:
    """The names of the files that an index names.

    Raises:
        CheckpointError: the index is damaged, or names files of other folders.
    """
    names = ConfigFile(index).part("weight_map").values.values()
    for name in names:
        # A name with a folder could be that of any file.
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(
                f"expected names of files in its folder, found {name!r:.100}", file=index
            )
    return sorted(set(names))
