"""ModelScope's model directories.

`vision_model_config.json`, `text_model_config.json`, `pytorch_model.bin` and `vocab.txt`, as
`CLIPForMultiModalEmbedding` of ModelScope 1.40 reads them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ..modeling.config import ACTIVATIONS, ClipConfig, TextConfig, VisionConfig
from .checkpoint import Checkpoint, Hints, Weights
from .config_file import ConfigFile
from .files import TEXT_CONFIG, VISION_CONFIG, VOCABULARY, WEIGHTS, Source
from .pickles import write_pickle
from .tensors import read_tensors
from .vocabulary import read_vocabulary, tokenizer_of

# Chinese-CLIP uses the hidden state of [CLS], and not BERT's pooler.
POOLER_PREFIX = "bert.pooler."


def read_modelscope(source: Source, hints: Hints) -> Checkpoint:
    """Read a ModelScope model directory.

    Raises:
        CheckpointError: a file is damaged.
        VocabularyError: the vocabulary cannot be used.
    """
    vocabulary = read_vocabulary(source.path / VOCABULARY)
    pad_id = tokenizer_of(vocabulary, source.path / VOCABULARY).pad_id
    weights = read_tensors(source.weights)
    return Checkpoint(
        config=read_config(source.path, pad_id),
        weights=without_pooler(weights),
        vocabulary=vocabulary,
        format=source.format,
        rounds_to_half=True,
    )


def without_pooler(weights: Weights) -> Weights:
    """The tensors that embedding uses."""
    return {name: value for name, value in weights.items() if not name.startswith(POOLER_PREFIX)}


def read_config(directory: Path, pad_id: int) -> ClipConfig:
    """Read the two configuration files of a ModelScope model directory.

    Raises:
        CheckpointError: a file is missing or damaged, or a size is invalid.
    """
    vision = ConfigFile.read(directory / VISION_CONFIG)
    text = ConfigFile.read(directory / TEXT_CONFIG)
    config = ClipConfig(
        embed_dim=vision.size("embed_dim"),
        vision=_read_vision(vision),
        text=_read_text(text),
        pad_id=pad_id,
    )
    width, heads = config.vision.feature_width, config.vision.heads
    if heads < 1 or width % heads:
        raise vision.error("vision_head_width", f"a divisor of {width} columns")
    return config


def _read_vision(values: ConfigFile) -> VisionConfig:
    resolution = values.resolution("image_resolution")
    width = values.size("vision_width")
    head_width = values.size("vision_head_width", 64)
    layers = values.stages("vision_layers")
    if not isinstance(layers, int):
        # The stem's first convolution rounds its half up, four poolings round theirs down.
        if (resolution + 1) // 2 // 16 != resolution // 32:
            raise values.error("image_resolution", "one that a ResNet halves five times")
        return VisionConfig(resolution, layers, width, None, head_width)
    patch_size = values.size("vision_patch_size", at_most=resolution)
    return VisionConfig(resolution, layers, width, patch_size, head_width)


def _read_text(values: ConfigFile) -> TextConfig:
    width = values.size("text_hidden_size")
    return TextConfig(
        vocab_size=values.size("vocab_size"),
        width=width,
        layers=values.layers("text_num_hidden_layers"),
        heads=values.divisor("text_num_attention_heads", of=width),
        intermediate_width=values.size("text_intermediate_size"),
        max_positions=values.size("text_max_position_embeddings"),
        type_vocab_size=values.size("text_type_vocab_size"),
        activation=values.one_of("text_hidden_act", ACTIVATIONS, "gelu"),
    )


def write_modelscope(checkpoint: Checkpoint, directory: Path) -> None:
    """Write a checkpoint to an empty directory, as ModelScope publishes its models.

    Raises:
        CheckpointError: ModelScope's format cannot store this checkpoint.
        OSError: a file cannot be written.
    """
    checkpoint.check_normalisation("ModelScope")
    for name, content in config_files(checkpoint.config).items():
        (directory / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    (directory / VOCABULARY).write_bytes(checkpoint.vocabulary)
    weights = {f"module.{name}": value for name, value in with_pooler(checkpoint).items()}
    write_pickle({"state_dict": weights}, directory / WEIGHTS)


def with_pooler(checkpoint: Checkpoint) -> Weights:
    """The weights, and BERT's pooler, which ModelScope requires but does not use."""
    width = checkpoint.config.text.width
    dtype = checkpoint.weights["text_projection"].dtype
    return checkpoint.weights | {
        POOLER_PREFIX + "dense.weight": torch.zeros(width, width, dtype=dtype),
        POOLER_PREFIX + "dense.bias": torch.zeros(width, dtype=dtype),
    }


def config_files(config: ClipConfig) -> dict[str, dict[str, Any]]:
    """The contents of a ModelScope directory's configuration files, by file name."""
    vision: dict[str, Any] = {
        "embed_dim": config.embed_dim,
        "image_resolution": config.vision.resolution,
        "vision_layers": config.vision.layers,
        "vision_width": config.vision.width,
        "vision_patch_size": config.vision.patch_size,
        "vision_head_width": config.vision.head_width,
    }
    text = {
        "vocab_size": config.text.vocab_size,
        "text_attention_probs_dropout_prob": 0.1,
        "text_hidden_act": config.text.activation,
        "text_hidden_dropout_prob": 0.1,
        "text_hidden_size": config.text.width,
        "text_initializer_range": 0.02,
        "text_intermediate_size": config.text.intermediate_width,
        "text_max_position_embeddings": config.text.max_positions,
        "text_num_attention_heads": config.text.heads,
        "text_num_hidden_layers": config.text.layers,
        "text_type_vocab_size": config.text.type_vocab_size,
    }
    pipeline = {
        "framework": "pytorch",
        "task": "multi-modal-embedding",
        "pipeline": {"type": "multi-modal-embedding"},
        "model": {"type": "clip-multi-modal-embedding"},
    }
    return {VISION_CONFIG: vision, TEXT_CONFIG: text, "configuration.json": pipeline}
