"""ModelScope's model directories.

`vision_model_config.json`, `text_model_config.json`, `pytorch_model.bin` and `vocab.txt`, as
`CLIPForMultiModalEmbedding` of ModelScope 1.40 reads them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ..modeling.config import ClipConfig
from .checkpoint import Checkpoint, Weights
from .config_file import ConfigFile, read_text_config, read_vision_config
from .files import TEXT_CONFIG, VISION_CONFIG, VOCABULARY, WEIGHTS, CheckpointFiles
from .tensors import read_tensors, write_pickle
from .vocabulary import read_vocabulary, tokenizer_of

# Chinese-CLIP uses the hidden state of [CLS], and not BERT's pooler.
POOLER_PREFIX = "bert.pooler."
# Keys of the configuration files, by the fields of VisionConfig and TextConfig.
_VISION_KEYS = {
    "resolution": "image_resolution",
    "layers": "vision_layers",
    "width": "vision_width",
    "patch_size": "vision_patch_size",
    "head_width": "vision_head_width",
}
_TEXT_KEYS = {
    "vocab_size": "vocab_size",
    "width": "text_hidden_size",
    "layers": "text_num_hidden_layers",
    "heads": "text_num_attention_heads",
    "intermediate_width": "text_intermediate_size",
    "max_positions": "text_max_position_embeddings",
    "type_vocab_size": "text_type_vocab_size",
    "activation": "text_hidden_act",
}


def read_modelscope(source: CheckpointFiles) -> Checkpoint:
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
    vision = ConfigFile(directory / VISION_CONFIG)
    return ClipConfig(
        embed_dim=vision.size("embed_dim"),
        vision=read_vision_config(vision, _VISION_KEYS),
        text=read_text_config(ConfigFile(directory / TEXT_CONFIG), _TEXT_KEYS),
        pad_id=pad_id,
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
    vision = {key: getattr(config.vision, field) for field, key in _VISION_KEYS.items()}
    text = {key: getattr(config.text, field) for field, key in _TEXT_KEYS.items()}
    text |= {
        "text_attention_probs_dropout_prob": 0.1,
        "text_hidden_dropout_prob": 0.1,
        "text_initializer_range": 0.02,
    }
    pipeline = {
        "framework": "pytorch",
        "task": "multi-modal-embedding",
        "pipeline": {"type": "multi-modal-embedding"},
        "model": {"type": "clip-multi-modal-embedding"},
    }
    return {
        VISION_CONFIG: {"embed_dim": config.embed_dim} | vision,
        TEXT_CONFIG: text,
        "configuration.json": pipeline,
    }
