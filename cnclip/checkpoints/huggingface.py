"""Hugging Face's model directories, as transformers' ChineseCLIPModel reads and writes them.

`config.json`, weights as safetensors or pickle, whole or in shards, `vocab.txt` or
`tokenizer.json`, and `preprocessor_config.json` or `processor_config.json`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .._checks import requires_extra
from .._text import first_line
from ..archive import DEVIATIONS, MAX_RESOLUTION, MEANS
from ..errors import CheckpointError
from ..modeling.config import CLIP_MEAN, CLIP_STD, CONTEXT_LENGTH, ClipConfig, VisionConfig
from .checkpoint import Checkpoint, Weights, check_tensors, empty_model
from .config_file import MAX_LAYERS, ConfigFile, read_text_config
from .files import (
    CONFIG,
    INDEX_SUFFIX,
    PREPROCESSOR_CONFIG,
    PROCESSOR_CONFIG,
    SAFETENSORS,
    TOKENIZER,
    VOCABULARY,
    CheckpointFiles,
)
from .modelscope import UNUSED_IDS
from .tensors import read_tensors, write_safetensors
from .vocabulary import read_vocabulary, tokenizer_of

# Keys of config.json, by the fields of VisionConfig and TextConfig.
_VISION_KEYS = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "resolution": "image_size",
    "patch_size": "patch_size",
}
_TEXT_KEYS = {
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "intermediate_width": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "max_positions": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "activation": "hidden_act",
}
# Our key in text_config, which transformers keeps and does not use.
_CONTEXT_LENGTH, _NORMALIZED_TEXTS = "context_length", "normalized_texts"
# transformers' values of missing keys.
_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
_VISION_DEFAULTS = _DEFAULTS | {"image_size": 224, "patch_size": 32}
_TEXT_DEFAULTS = _DEFAULTS | {
    "vocab_size": 30522,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
}
# The settings that the towers and the core's preprocessing have.
_VISION_SETTINGS = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_TEXT_SETTINGS = {"layer_norm_eps": 1e-12}
_IMAGE_SETTINGS = {"do_resize": True, "resample": 3, "do_rescale": True}

# Parts of cn_clip's names, and what transformers has in their place; applied in this order.
_RENAMED = {
    "visual.transformer.resblocks": "vision_model.encoder.layers",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1": "vision_model.embeddings.patch_embedding",
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
    "visual.proj": "visual_projection.weight",
    "text_projection": "text_projection.weight",
    "bert.": "text_model.",
    ".attn.": ".self_attn.",
    ".ln_": ".layer_norm",
    ".c_fc": ".fc1",
    ".c_proj": ".fc2",
}
# Tensors that no computation needs.
_UNUSED = (
    *UNUSED_IDS,
    "text_model.pooler.dense.weight",
    "text_model.pooler.dense.bias",
)
# transformers 5.0 writes BERT's norms with the names that they had in TensorFlow.
_OLD_SUFFIXES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
_TRANSPOSED = ("visual.proj", "text_projection")
_MAX_VOCABULARY = 1 << 20
_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Maximum size of a file of weights, and of the copies in memory while it is written.
SHARD_BYTES = 500_000_000


def read_huggingface(found: CheckpointFiles) -> Checkpoint:
    """Read a directory that `ChineseCLIPModel.from_pretrained` opens.

    Raises:
        CheckpointError: a file is damaged, or of another model; names it.
        VocabularyError: the vocabulary cannot be used.
        MissingExtraError: safetensors is not installed.
    """
    settings = read_settings(found.path)
    weights = _from_huggingface(read_tensors(found.weights), settings.config, found.path)
    return dataclasses.replace(settings, weights=weights)


def read_settings(directory: Path) -> Checkpoint:
    """The small files of a checkpoint, which has no weights then.

    Raises:
        CheckpointError, VocabularyError: as for `read_huggingface`.
    """
    _check_model_type(ConfigFile(directory / CONFIG))
    vocabulary = _read_vocabulary(directory)
    config = _read_config(directory / CONFIG, tokenizer_of(vocabulary, directory).pad_id)
    mean, std = _read_preprocessor(directory, config.vision.resolution)
    text = ConfigFile(directory / CONFIG).part("text_config", {_CONTEXT_LENGTH: CONTEXT_LENGTH})
    return Checkpoint(
        config,
        {},
        vocabulary,
        rounds_to_half=False,
        mean=mean,
        std=std,
        max_text_ids=text.size(_CONTEXT_LENGTH, at_least=3),
        normalized_texts=text.values.get(_NORMALIZED_TEXTS) is True,
    )


def _check_model_type(values: ConfigFile) -> None:
    if values.values.get("model_type", "chinese_clip") != "chinese_clip":
        raise values.error("model_type", "'chinese_clip'")


def _read_config(path: Path, pad_id: int) -> ClipConfig:
    values = ConfigFile(path)
    vision = values.part("vision_config", _VISION_DEFAULTS)
    text = values.part("text_config", _TEXT_DEFAULTS)
    width = vision.size("hidden_size")
    if vision.size("intermediate_size") != 4 * width:
        raise vision.error("intermediate_size", f"{4 * width}, four times the width")
    for part, settings in ((vision, _VISION_SETTINGS), (text, _TEXT_SETTINGS)):
        for key, value in settings.items():
            part.expect(key, value)
    vision.expect("num_channels", 3)
    text.expect("position_embedding_type", "absolute")
    resolution = vision.size("image_size", at_most=MAX_RESOLUTION)
    return ClipConfig(
        embed_dim=values.size("projection_dim", 512),
        vision=VisionConfig(
            resolution=resolution,
            layers=vision.size("num_hidden_layers", at_most=MAX_LAYERS),
            width=width,
            patch_size=vision.size("patch_size", at_most=resolution),
            head_width=width // vision.divisor("num_attention_heads", of=width),
        ),
        text=read_text_config(text, _TEXT_KEYS),
        pad_id=pad_id,
    )


def _read_vocabulary(directory: Path) -> bytes:
    path = directory / VOCABULARY
    if path.is_file():
        return read_vocabulary(path)
    path = directory / TOKENIZER
    words = _read_words(ConfigFile(path))
    size = len(words)
    if not 1 <= size <= _MAX_VOCABULARY or sorted(map(repr, words.values())) != sorted(
        map(repr, range(size))
    ):
        raise CheckpointError(
            "expected words with ids from 0 on, each once", file=path, member="model.vocab"
        )
    if any("\n" in word or "\r" in word for word in words):
        raise CheckpointError("a word with a line break", file=path, member="model.vocab")
    ordered = sorted(words, key=words.__getitem__)
    try:
        return "".join(f"{word}\n" for word in ordered).encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(f"{first_line(error)}", file=path, member="model.vocab") from error


def _read_words(tokenizer: ConfigFile) -> Mapping[str, Any]:
    """The words of a tokenizer.json and their ids; other tokenizers than BERT's are refused."""
    model, normalizer = tokenizer.part("model"), tokenizer.part("normalizer")
    model.expect("type", "WordPiece")
    model.expect("unk_token", "[UNK]")
    model.expect("continuing_subword_prefix", "##")
    normalizer.expect("type", "BertNormalizer")
    normalizer.expect("lowercase", True)
    normalizer.expect("clean_text", True)
    normalizer.expect("handle_chinese_chars", True)
    normalizer.expect("strip_accents", None, True)
    tokenizer.part("pre_tokenizer").expect("type", "BertPreTokenizer")
    words = model.part("vocab").values
    special = [(token, words.get(token)) for token in _SPECIAL_TOKENS]
    added = tokenizer.values.get("added_tokens", [])
    for token in added if isinstance(added, list) else [added]:
        if not isinstance(token, dict) or (token.get("content"), token.get("id")) not in special:
            raise tokenizer.error("added_tokens", f"BERT's of its vocabulary, not {token!r:.100}")
    return words


Channels = tuple[float, float, float]


def _preprocessor(directory: Path) -> ConfigFile | None:
    """The settings of the image processor, from the file from which transformers takes them."""
    path = directory / PROCESSOR_CONFIG
    if path.is_file():
        values = ConfigFile(path)
        if "image_processor" in values.values:
            return values.part("image_processor")
    path = directory / PREPROCESSOR_CONFIG
    return ConfigFile(path) if path.is_file() else None


def _read_preprocessor(directory: Path, resolution: int) -> tuple[Channels, Channels]:
    """Mean and standard deviation of the normalisation.

    Other settings are refused if they differ from the core's preprocessing: to resize to a square,
    bicubically, and to scale to 0..1.
    """
    values = _preprocessor(directory)
    if values is None:
        return CLIP_MEAN, CLIP_STD
    square = {"height": resolution, "width": resolution}
    values.expect("size", square, resolution, None)
    for key, value in _IMAGE_SETTINGS.items():
        values.expect(key, value)
    values.expect("rescale_factor", 1 / 255)
    values.expect("do_normalize", True, False)
    crops = values.values.get("do_center_crop", "crop_size" in values.values)
    sizes = (values.values.get("size"), values.values.get("crop_size"))
    if crops and sizes not in [(square, square), (square, resolution)]:
        raise values.error("do_center_crop", f"False, or size and crop_size {square}")
    if not values.values.get("do_normalize", True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return _channels(values, "image_mean", CLIP_MEAN), _channels(values, "image_std", CLIP_STD)


def _channels(values: ConfigFile, key: str, default: Channels) -> Channels:
    found = values.values.get(key)
    if found is None:
        return default
    bounds = DEVIATIONS if key.endswith("std") else MEANS
    if (
        not isinstance(found, list)
        or len(found) != 3
        or not all(type(x) in (int, float) and bounds[0] <= x <= bounds[1] for x in found)
    ):
        raise values.error(key, "three numbers")
    return float(found[0]), float(found[1]), float(found[2])


def _names(ours: str) -> list[str]:
    """A tensor's names in transformers, which has queries, keys and values in three tensors."""
    theirs = ours
    for part, replacement in _RENAMED.items():
        theirs = theirs.replace(part, replacement)
    if "in_proj_" not in theirs:
        return [theirs]
    return [theirs.replace("in_proj_", f"{part}_proj.") for part in "qkv"]


def _current(name: str) -> str:
    """The name that transformers gives a tensor now."""
    for old, new in _OLD_SUFFIXES.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _from_huggingface(weights: Weights, config: ClipConfig, path: Path) -> Weights:
    used = {_current(name): v for name, v in weights.items() if not name.endswith(_UNUSED)}
    model = empty_model(config)
    shapes = {name: value.shape for name, value in _views(model.state_dict()).items()}
    check_tensors(used, shapes, path)  # before anything is computed from them
    found: Weights = {}
    for ours in model.state_dict():
        tensors = [used.pop(name) for name in _names(ours)]
        value = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
        found[ours] = value.t().contiguous() if ours in _TRANSPOSED else value
    return found


def _views(weights: Weights) -> Weights:
    """Views of tensors with cn_clip's names, by transformers' names."""
    views: Weights = {}
    for ours, value in weights.items():
        names = _names(ours)
        parts = value.chunk(len(names)) if len(names) > 1 else [value]
        views |= dict(zip(names, parts, strict=True))
        if ours in _TRANSPOSED:
            views[names[0]] = value.t()
    return views


def write_huggingface(checkpoint: Checkpoint, directory: Path) -> None:
    """Write a checkpoint to an empty directory that `ChineseCLIPModel.from_pretrained` opens.

    Raises:
        CheckpointError: a ResNet, which transformers does not have.
        OSError: a file cannot be written.
        MissingExtraError: huggingface_hub or safetensors is not installed.
    """
    if not isinstance(checkpoint.config.vision.layers, int):
        raise CheckpointError("Hugging Face's format has no ResNet vision tower")
    # One type for all tensors, as transformers loads them: the widest of theirs.
    types = (value.dtype for value in checkpoint.weights.values())
    dtype = functools.reduce(torch.promote_types, types, torch.float16)
    name_of_dtype = str(dtype).removeprefix("torch.")
    for name, content in _config_files(checkpoint, name_of_dtype).items():
        _write_json(content, directory / name)
    (directory / VOCABULARY).write_bytes(checkpoint.vocabulary)
    _write_shards(_views(checkpoint.weights), dtype, directory)


def _write_shards(weights: Weights, dtype: torch.dtype, directory: Path) -> None:
    """Write tensors as transformers does, with copies of one shard in memory at a time."""
    with requires_extra("huggingface", "huggingface_hub"):
        from huggingface_hub import split_torch_state_dict_into_shards
    # Without memory, and each by itself: tensors that share memory would be in the same shard.
    sizes = {
        name: torch.empty(value.shape, dtype=dtype, device="meta")
        for name, value in weights.items()
    }
    plan = split_torch_state_dict_into_shards(sizes, max_shard_size=SHARD_BYTES)
    for file, names in plan.filename_to_tensors.items():
        # Copies, because safetensors refuses tensors that share memory.
        copies = {
            name: torch.empty_like(sizes[name], device="cpu").copy_(weights[name]) for name in names
        }
        write_safetensors(copies, directory / file)
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        _write_json(index, directory / (SAFETENSORS + INDEX_SUFFIX))


def _write_json(content: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _config_files(checkpoint: Checkpoint, dtype: str) -> dict[str, dict[str, Any]]:
    vision, text = checkpoint.config.vision, checkpoint.config.text
    text_config = {
        "model_type": "chinese_clip_text_model",
        "pad_token_id": checkpoint.config.pad_id,
        **{key: getattr(text, field) for field, key in _TEXT_KEYS.items()},
        **_TEXT_SETTINGS,
    }
    config = {
        "architectures": ["ChineseCLIPModel"],
        "model_type": "chinese_clip",
        "projection_dim": checkpoint.config.embed_dim,
        "logit_scale_init_value": float(checkpoint.weights["logit_scale"]),
        "torch_dtype": dtype,
        "vision_config": {
            "model_type": "chinese_clip_vision_model",
            "intermediate_size": 4 * vision.width,
            "projection_dim": checkpoint.config.embed_dim,
            **{key: getattr(vision, field) for field, key in _VISION_KEYS.items()},
            **_VISION_SETTINGS,
        },
        "text_config": text_config,
    }
    preprocessor = {
        "image_processor_type": "ChineseCLIPImageProcessor",
        "do_convert_rgb": True,
        "do_center_crop": False,
        "do_normalize": True,
        "size": {"height": vision.resolution, "width": vision.resolution},
        "image_mean": list(checkpoint.mean),
        "image_std": list(checkpoint.std),
        **_IMAGE_SETTINGS,
    }
    tokenizer: dict[str, Any] = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    if not checkpoint.has_usual_context_length:
        text_config[_CONTEXT_LENGTH] = checkpoint.context_length
    if checkpoint.normalized_texts:
        text_config[_NORMALIZED_TEXTS] = True
        tokenizer["model_max_length"] = checkpoint.context_length
    return {
        CONFIG: config,
        PREPROCESSOR_CONFIG: preprocessor,
        "tokenizer_config.json": tokenizer,
    }
