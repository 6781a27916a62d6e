"""ModelScope's model directories.

`vision_model_config.json`, `text_model_config.json`, `pytorch_model.bin` and `vocab.txt`, as
`CLIPForMultiModalEmbedding` of ModelScope 1.40 reads them.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..modeling.config import CONTEXT_LENGTH, ClipConfig
from .checkpoint import Checkpoint, Weights
from .config_file import ConfigFile, read_text_config, read_vision_config
from .files import (
    OWN_ENTRY,
    PIPELINE_CONFIG,
    TEXT_CONFIG,
    VISION_CONFIG,
    VOCABULARY,
    WEIGHTS,
    CheckpointFiles,
    own_settings,
)
from .published_sizes import PUBLISHED_SIZES
from .tensors import read_tensors, write_pickle
from .vocabulary import PUBLISHED_VOCABULARY, check_ids, read_vocabulary, tokenizer_of

# Chinese-CLIP uses the hidden state of [CLS], and not BERT's pooler.
POOLER_PREFIX = "bert.pooler."
# In our entry of configuration.json.
_CONTEXT_LENGTH, _NORMALIZED_TEXTS = "context_length", "normalized_texts"
# Positions counted from 0, and zeros, which some versions of transformers store.
UNUSED_IDS = ("position_ids", "token_type_ids")
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


def read_modelscope(found: CheckpointFiles) -> Checkpoint:
    """Read a ModelScope model directory.

    Raises:
        CheckpointError: a file is damaged.
        VocabularyError: the vocabulary cannot be used.
    """
    settings = read_settings(found.path)
    return dataclasses.replace(settings, weights=used_tensors(read_tensors(found.weights)))


def read_settings(directory: Path) -> Checkpoint:
    """The small files of a checkpoint, which has no weights then.

    Raises:
        CheckpointError, VocabularyError: as for `read_modelscope`.
    """
    vocabulary = read_vocabulary(directory / VOCABULARY)
    config = _read_config(directory, tokenizer_of(vocabulary, directory / VOCABULARY).pad_id)
    return Checkpoint(
        config,
        {},
        vocabulary,
        rounds_to_half=True,
        max_text_ids=_read_context_length(directory, config),
        normalized_texts=_read_normalized_texts(directory),
    )


def _read_normalized_texts(directory: Path) -> bool:
    """Whether the description of a model says so; that of ModelScope's own models does not."""
    settings = own_settings(directory)
    return settings is not None and settings.values.get(_NORMALIZED_TEXTS) is True


def untrained_checkpoint(model: str | Path) -> Checkpoint:
    """A checkpoint without weights: sizes and a vocabulary, for training from scratch.

    Args:
        model: A published model's name in cn_clip, with the published vocabulary; or a
            ModelScope model directory, whose weights may be missing.

    Raises:
        CheckpointError: none of these, or a file is damaged.
        VocabularyError: the vocabulary cannot be used.
    """
    if str(model) in PUBLISHED_SIZES:
        config, vocabulary = PUBLISHED_SIZES[str(model)], PUBLISHED_VOCABULARY.read_bytes()
        context_length = CONTEXT_LENGTH
    else:
        directory = Path(model).expanduser()
        names = (VISION_CONFIG, TEXT_CONFIG, VOCABULARY)
        missing = [name for name in names if not (directory / name).is_file()]
        if missing:
            raise CheckpointError(
                f"neither one of {', '.join(PUBLISHED_SIZES)} nor a directory of sizes: "
                f"missing {', '.join(missing)}",
                file=model,
            )
        vocabulary = read_vocabulary(directory / VOCABULARY)
        tokenizer = tokenizer_of(vocabulary, directory / VOCABULARY)
        config = _read_config(directory, tokenizer.pad_id)
        check_ids(tokenizer, config.text.vocab_size, directory)
        context_length = _read_context_length(directory, config)
    return Checkpoint(config, {}, vocabulary, rounds_to_half=True, max_text_ids=context_length)


def used_tensors(weights: Weights) -> Weights:
    """The tensors that embedding uses."""
    return {
        name: value
        for name, value in weights.items()
        if not name.startswith(POOLER_PREFIX) and not name.endswith(UNUSED_IDS)
    }


def _read_config(directory: Path, pad_id: int) -> ClipConfig:
    vision = ConfigFile(directory / VISION_CONFIG)
    return ClipConfig(
        embed_dim=vision.size("embed_dim"),
        vision=read_vision_config(vision, _VISION_KEYS),
        text=read_text_config(ConfigFile(directory / TEXT_CONFIG), _TEXT_KEYS),
        pad_id=pad_id,
    )


def _read_context_length(directory: Path, config: ClipConfig) -> int:
    """Ids at which texts are cut: an entry of ours in configuration.json, else the usual ones.

    ModelScope passes all values of text_model_config.json to its model, which refuses unknown ones,
    and always cuts texts at 52 ids.
    """
    ours = own_settings(directory)
    if ours is None or _CONTEXT_LENGTH not in ours.values:
        return CONTEXT_LENGTH
    return ours.size(_CONTEXT_LENGTH, at_least=3, at_most=config.text.max_positions)


def write_modelscope(checkpoint: Checkpoint, directory: Path) -> None:
    """Write a checkpoint to an empty directory, as ModelScope publishes its models.

    Raises:
        CheckpointError: ModelScope's format cannot store this checkpoint.
        OSError: a file cannot be written.
    """
    checkpoint.check_normalisation("ModelScope")
    for name, content in _config_files(checkpoint).items():
        (directory / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    (directory / VOCABULARY).write_bytes(checkpoint.vocabulary)
    write_weights(checkpoint, directory / WEIGHTS)


def write_weights(checkpoint: Checkpoint, path: Path, **more: Any) -> None:
    """Write the weights, and BERT's pooler, which ModelScope requires but does not use.

    Args:
        checkpoint: The checkpoint.
        path: The file.
        more: Other values of the file.

    Raises:
        OSError: the file cannot be written.
    """
    width = checkpoint.config.text.width
    dtype = checkpoint.weights["text_projection"].dtype
    weights = checkpoint.weights | {
        POOLER_PREFIX + "dense.weight": torch.zeros(width, width, dtype=dtype),
        POOLER_PREFIX + "dense.bias": torch.zeros(width, dtype=dtype),
    }
    named = {f"module.{name}": value for name, value in weights.items()}
    write_pickle(more | {"state_dict": named}, path)


def _config_files(checkpoint: Checkpoint) -> dict[str, dict[str, Any]]:
    """The contents of a ModelScope directory's configuration files, by file name."""
    config = checkpoint.config
    vision = {key: getattr(config.vision, field) for field, key in _VISION_KEYS.items()}
    text = {key: getattr(config.text, field) for field, key in _TEXT_KEYS.items()}
    text |= {
        "text_attention_probs_dropout_prob": 0.1,
        "text_hidden_dropout_prob": 0.1,
        "text_initializer_range": 0.02,
    }
    pipeline: dict[str, Any] = {
        "framework": "pytorch",
        "task": "multi-modal-embedding",
        "pipeline": {"type": "multi-modal-embedding"},
        "model": {"type": "clip-multi-modal-embedding"},
    }
    own: dict[str, Any] = {}
    if not checkpoint.has_usual_context_length:
        own[_CONTEXT_LENGTH] = checkpoint.context_length
    if checkpoint.normalized_texts:
        own[_NORMALIZED_TEXTS] = True
    if own:
        pipeline[OWN_ENTRY] = own
    return {
        VISION_CONFIG: {"embed_dim": config.embed_dim} | vision,
        TEXT_CONFIG: text,
        PIPELINE_CONFIG: pipeline,
    }
