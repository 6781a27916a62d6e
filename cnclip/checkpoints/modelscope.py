"""Reads ModelScope's model directories.

`vision_model_config.json`, `text_model_config.json`, `pytorch_model.bin` and `vocab.txt`, as
`CLIPForMultiModalEmbedding` of ModelScope 1.40 takes them.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .. import _core
from ..archive import LARGEST_RESOLUTION
from ..errors import CheckpointError
from ..modeling import ClipConfig, TextConfig, VisionConfig
from ..modeling.config import ACTIVATIONS
from .checkpoint import Checkpoint
from .files import TEXT_CONFIG, VISION_CONFIG, VOCABULARY, WEIGHTS, checkpoint_files

# Written by training wrappers around the model, in the order in which they are stripped.
PREFIXES = ("module.", "clip_model.")
# Chinese-CLIP takes the hidden state of [CLS] and never uses BERT's pooler.
UNUSED_PREFIX = "bert.pooler."
# Far above any published model; what is larger is damage, and would take hours or all memory.
LARGEST_SIZE = 1 << 24
MOST_LAYERS = 1000


def read_modelscope(directory: Path) -> Checkpoint:
    """Read a ModelScope model directory.

    Raises:
        CheckpointError: a file is missing or damaged; names it.
        VocabularyError: the vocabulary cannot be used.
    """
    checkpoint_files(directory)
    vocabulary = (directory / VOCABULARY).read_bytes()
    pad_id = _core.Tokenizer(vocabulary).pad_id
    return Checkpoint(
        config=read_config(directory, pad_id),
        weights=_read_weights(directory / WEIGHTS),
        vocabulary=vocabulary,
        format="modelscope",
        rounds_to_half=True,
    )


class _Values:
    """A configuration file's values, checked as they are asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{path}: {error}") from error
        if not isinstance(values, dict):
            raise CheckpointError(f"{path}: expected a JSON object")
        self.values: Mapping[str, Any] = values

    def error(self, key: str, expected: str) -> CheckpointError:
        found = repr(self.values[key]) if key in self.values else "nothing"
        return CheckpointError(f"{self.path}: {key}: expected {expected}, found {found:.100}")

    def size(self, key: str, default: int | None = None, *, at_most: int = LARGEST_SIZE) -> int:
        """A positive integer."""
        value = self.values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= at_most:
            raise self.error(key, f"an integer from 1 to {at_most}")
        return value


def read_config(directory: Path, pad_id: int) -> ClipConfig:
    """Read the two configuration files of a ModelScope model directory.

    Raises:
        CheckpointError: a file is missing or damaged, or a size is; names it.
    """
    vision = _Values(directory / VISION_CONFIG)
    text = _Values(directory / TEXT_CONFIG)
    config = ClipConfig(
        embed_dim=vision.size("embed_dim"),
        vision=_read_vision(vision),
        text=_read_text(text),
        pad_id=pad_id,
    )
    width, heads = config.vision.feature_width, config.vision.heads
    if heads < 1 or width % heads:
        raise vision.error("vision_head_width", f"one that divides {width} columns among heads")
    if config.text.width % config.text.heads:
        raise text.error("text_num_attention_heads", f"a divisor of {config.text.width}")
    return config


def _read_vision(values: _Values) -> VisionConfig:
    resolution = values.size("image_resolution", at_most=LARGEST_RESOLUTION)
    width = values.size("vision_width")
    head_width = values.size("vision_head_width", 64)
    layers = values.values.get("vision_layers")
    if isinstance(layers, list):
        if len(layers) != 4 or not all(type(n) is int and 1 <= n <= MOST_LAYERS for n in layers):
            raise values.error("vision_layers", "an integer or four of them")
        # The stem's first convolution rounds its half up, four poolings round theirs down.
        if (resolution + 1) // 2 // 16 != resolution // 32:
            raise values.error("image_resolution", "one that a ResNet halves five times")
        stages = (layers[0], layers[1], layers[2], layers[3])
        return VisionConfig(resolution, stages, width, None, head_width)
    patch_size = values.size("vision_patch_size")
    if patch_size > resolution:
        raise values.error("vision_patch_size", f"at most image_resolution {resolution}")
    depth = values.size("vision_layers", at_most=MOST_LAYERS)
    return VisionConfig(resolution, depth, width, patch_size, head_width)


def _read_text(values: _Values) -> TextConfig:
    activation = values.values.get("text_hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise values.error("text_hidden_act", f"one of {', '.join(ACTIVATIONS)}")
    return TextConfig(
        vocab_size=values.size("vocab_size"),
        width=values.size("text_hidden_size"),
        layers=values.size("text_num_hidden_layers", at_most=MOST_LAYERS),
        heads=values.size("text_num_attention_heads"),
        intermediate_width=values.size("text_intermediate_size"),
        max_positions=values.size("text_max_position_embeddings"),
        type_vocab_size=values.size("text_type_vocab_size"),
        activation=activation,
    )


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        # Mapped where that is possible: of zips, and by a name that libtorch can take.
        mapped = zipfile.is_zipfile(path) and _is_utf8(path)
        with path.open("rb") as file:
            content = torch.load(
                path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped
            )
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: not read: it is damaged, or holds Python objects other than tensors, which "
            f"could run code ({_first_line(error)})"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # torch raises whatever a damaged file leads it to
        raise CheckpointError(f"{path}: damaged: {_first_line(error)}") from error

    weights = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f"{path}: expected a dict of tensors")
    if not all(isinstance(name, str) for name in weights):
        raise CheckpointError(f"{path}: expected tensors by their names")
    for prefix in PREFIXES:
        if str(next(iter(weights))).startswith(prefix):
            weights = {str(name).removeprefix(prefix): value for name, value in weights.items()}
    for name, value in weights.items():
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{path}: {name}: expected a tensor, found {type(value)}")
    return {name: value for name, value in weights.items() if not name.startswith(UNUSED_PREFIX)}


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
