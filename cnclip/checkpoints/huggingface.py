"""Hugging Face's model directories, as transformers' ChineseCLIPModel reads and writes them.

`config.json`, weights as safetensors or pickle, whole or in shards, `vocab.txt` or
`tokenizer.json`, and `preprocessor_config.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from .._text import first_line
from ..archive import DEVIATIONS, MAX_RESOLUTION, MEANS
from ..errors import CheckpointError
from ..modeling.config import ACTIVATIONS, CLIP_MEAN, CLIP_STD, ClipConfig, TextConfig, VisionConfig
from .checkpoint import FLOATS, Checkpoint, NamedTensor, Weights, empty_model
from .config_file import MAX_LAYERS, ConfigFile
from .files import (
    CONFIG,
    INDEX_SUFFIX,
    PREPROCESSOR_CONFIG,
    SAFETENSORS,
    SAFETENSORS_SUFFIX,
    TOKENIZER,
    VOCABULARY,
    CheckpointFiles,
)
from .tensors import read_tensors, write_safetensors
from .vocabulary import read_vocabulary, tokenizer_of

_ACTIVATIONS = {name: name for name in ACTIVATIONS} | {"silu": "swish"}
# Tensors that no computation needs: positions counted from 0, and BERT's pooler.
_UNUSED = (
    "position_ids",
    "token_type_ids",
    "text_model.pooler.dense.weight",
    "text_model.pooler.dense.bias",
)
_TRANSPOSED = ("visual.proj", "text_projection")
_MAX_VOCABULARY = 1 << 20
_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Maximum size of a file of weights, and of the copies in memory while it is written.
SHARD_BYTES = 500_000_000


def read_huggingface(source: CheckpointFiles) -> Checkpoint:
    """Read a directory that `ChineseCLIPModel.from_pretrained` opens.

    Raises:
        CheckpointError: a file is damaged, or of another model; names it.
        VocabularyError: the vocabulary cannot be used.
        MissingExtraError: safetensors is not installed.
    """
    vocabulary = _read_vocabulary(source.path)
    pad_id = tokenizer_of(vocabulary, source.path).pad_id
    config = _read_config(source.path / CONFIG, pad_id)
    mean, std = _read_preprocessor(source.path / PREPROCESSOR_CONFIG, config.vision.resolution)
    return Checkpoint(
        config=config,
        weights=_from_huggingface(read_tensors(source.weights), config, source.path),
        vocabulary=vocabulary,
        rounds_to_half=False,
        mean=mean,
        std=std,
    )


def _read_config(path: Path, pad_id: int) -> ClipConfig:
    """The configuration, with transformers' defaults for missing values."""
    values = ConfigFile(path)
    if values.values.get("model_type", "chinese_clip") != "chinese_clip":
        raise values.error("model_type", "'chinese_clip'")
    vision, text = values.part("vision_config"), values.part("text_config")
    width, text_width = vision.size("hidden_size", 768), text.size("hidden_size", 768)
    if vision.size("intermediate_size", 3072) != 4 * width:
        raise vision.error("intermediate_size", f"{4 * width}, four times the width")
    vision.one_of("hidden_act", ("quick_gelu",), "quick_gelu")
    vision.expect("layer_norm_eps", 1e-5)
    vision.expect("num_channels", 3)
    text.expect("layer_norm_eps", 1e-12)
    text.expect("position_embedding_type", "absolute")
    resolution = vision.size("image_size", 224, at_most=MAX_RESOLUTION)
    return ClipConfig(
        embed_dim=values.size("projection_dim", 512),
        vision=VisionConfig(
            resolution=resolution,
            layers=vision.size("num_hidden_layers", 12, at_most=MAX_LAYERS),
            width=width,
            patch_size=vision.size("patch_size", 32, at_most=resolution),
            head_width=width // vision.divisor("num_attention_heads", of=width, default=12),
        ),
        text=TextConfig(
            vocab_size=text.size("vocab_size", 30522),
            width=text_width,
            layers=text.size("num_hidden_layers", 12, at_most=MAX_LAYERS),
            heads=text.divisor("num_attention_heads", of=text_width, default=12),
            intermediate_width=text.size("intermediate_size", 3072),
            max_positions=text.size("max_position_embeddings", 512),
            type_vocab_size=text.size("type_vocab_size", 2),
            activation=_ACTIVATIONS[text.one_of("hidden_act", tuple(_ACTIVATIONS), "gelu")],
        ),
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


def _read_preprocessor(path: Path, resolution: int) -> tuple[Channels, Channels]:
    """Mean and standard deviation of the normalisation.

    Other settings are refused if they differ from the core's preprocessing: to resize to a square,
    bicubically, and to scale to 0..1.
    """
    if not path.is_file():
        return CLIP_MEAN, CLIP_STD
    values = ConfigFile(path)
    square = {"height": resolution, "width": resolution}
    values.expect("size", square, resolution, None)
    values.expect("do_resize", True)
    values.expect("resample", 3)
    values.expect("do_rescale", True)
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


# Names


def _names(config: ClipConfig) -> dict[str, tuple[str, ...]]:
    """The names of tensors in transformers, by cn_clip's names.

    cn_clip stacks the three tensors of queries, keys and values in one.
    """
    single = {
        "logit_scale": "logit_scale",
        "text_projection": "text_projection.weight",
        "visual.proj": "visual_projection.weight",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    }
    for table in ("word", "position", "token_type"):
        name = f"embeddings.{table}_embeddings.weight"
        single[f"bert.{name}"] = f"text_model.{name}"
    pairs = {
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
        "bert.embeddings.LayerNorm": "text_model.embeddings.LayerNorm",
    }
    stacked: dict[str, tuple[str, ...]] = {}
    assert isinstance(config.vision.layers, int)
    for i in range(config.vision.layers):
        ours, theirs = f"visual.transformer.resblocks.{i}.", f"vision_model.encoder.layers.{i}."
        pairs |= {
            ours + "ln_1": theirs + "layer_norm1",
            ours + "ln_2": theirs + "layer_norm2",
            ours + "mlp.c_fc": theirs + "mlp.fc1",
            ours + "mlp.c_proj": theirs + "mlp.fc2",
            ours + "attn.out_proj": theirs + "self_attn.out_proj",
        }
        for kind in ("weight", "bias"):
            parts = tuple(f"{theirs}self_attn.{part}_proj.{kind}" for part in "qkv")
            stacked[f"{ours}attn.in_proj_{kind}"] = parts
    for i in range(config.text.layers):
        for part in (
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
            "attention.output.LayerNorm",
            "intermediate.dense",
            "output.dense",
            "output.LayerNorm",
        ):
            pairs[f"bert.encoder.layer.{i}.{part}"] = f"text_model.encoder.layer.{i}.{part}"
    for ours, theirs in pairs.items():
        single |= {f"{ours}.{kind}": f"{theirs}.{kind}" for kind in ("weight", "bias")}
    return {ours: (theirs,) for ours, theirs in single.items()} | stacked


def _from_huggingface(weights: Weights, config: ClipConfig, path: Path) -> Weights:
    left = {name: value for name, value in weights.items() if not name.endswith(_UNUSED)}
    found: Weights = {}
    model = empty_model(config).state_dict()
    for ours, parts in _names(config).items():
        missing = [name for name in parts if name not in left]
        if missing:
            raise CheckpointError(f"the checkpoint has no tensor {missing[0]}", file=path)
        tensors = [left.pop(name) for name in parts]
        # Check them before anything is computed from them.
        wanted = list(model[ours].shape)
        if len(parts) > 1:
            wanted[0] //= len(parts)
        if ours in _TRANSPOSED:
            wanted.reverse()
        for name, tensor in zip(parts, tensors, strict=True):
            if list(tensor.shape) != wanted or tensor.dtype not in FLOATS:
                raise CheckpointError(
                    f"the checkpoint has {name} of shape {list(tensor.shape)} and type "
                    f"{tensor.dtype}, expected {wanted} and floats of 16 to 64 bits",
                    file=path,
                )
        value = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
        found[ours] = value.t().contiguous() if ours in _TRANSPOSED else value
    if left:
        raise CheckpointError(
            f"the checkpoint has a tensor {min(left)} that this architecture does not have",
            file=path,
        )
    return found


def _to_huggingface(checkpoint: Checkpoint, dtype: torch.dtype) -> Iterator[NamedTensor]:
    for ours, parts in _names(checkpoint.config).items():
        value = checkpoint.weights[ours].to(dtype)
        if ours in _TRANSPOSED:
            value = value.t()
        values = value.chunk(len(parts)) if len(parts) > 1 else [value]
        for name, part in zip(parts, values, strict=True):
            # A copy, because safetensors refuses tensors that share memory.
            yield name, part.clone(memory_format=torch.contiguous_format)


def write_huggingface(checkpoint: Checkpoint, directory: Path) -> None:
    """Write a checkpoint to an empty directory that `ChineseCLIPModel.from_pretrained` opens.

    Raises:
        CheckpointError: a ResNet, which transformers does not have.
        OSError: a file cannot be written.
        MissingExtraError: safetensors is not installed.
    """
    if not isinstance(checkpoint.config.vision.layers, int):
        raise CheckpointError("Hugging Face's format has no ResNet vision tower")
    # One type for all tensors, as transformers loads them: the widest of theirs.
    dtype = torch.float16
    for value in checkpoint.weights.values():
        dtype = torch.promote_types(dtype, value.dtype)
    name_of_dtype = str(dtype).removeprefix("torch.")
    for name, content in _config_files(checkpoint, name_of_dtype).items():
        (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (directory / VOCABULARY).write_bytes(checkpoint.vocabulary)
    _write_shards(_to_huggingface(checkpoint, dtype), directory)


def _write_shards(weights: Iterator[NamedTensor], directory: Path) -> None:
    """Write tensors as transformers does, with one shard in memory at a time."""
    shards: list[list[str]] = []
    size = 0
    for shard in _grouped(weights, SHARD_BYTES):
        write_safetensors(shard, directory / f"{len(shards)}{SAFETENSORS_SUFFIX}")
        shards.append(list(shard))
        size += sum(value.nbytes for value in shard.values())
    if len(shards) == 1:
        (directory / f"0{SAFETENSORS_SUFFIX}").rename(directory / SAFETENSORS)
        return
    places: dict[str, str] = {}
    for i, names in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}{SAFETENSORS_SUFFIX}"
        (directory / f"{i}{SAFETENSORS_SUFFIX}").rename(directory / file)
        places |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": size}, "weight_map": places}
    path = directory / (SAFETENSORS + INDEX_SUFFIX)
    path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _grouped(weights: Iterator[NamedTensor], max_bytes: int) -> Iterator[Weights]:
    group: Weights = {}
    size = 0
    for name, value in weights:
        if group and size + value.nbytes > max_bytes:
            yield group
            group, size = {}, 0
        group[name] = value
        size += value.nbytes
    yield group


def _config_files(checkpoint: Checkpoint, dtype: str) -> dict[str, dict[str, Any]]:
    vision, text = checkpoint.config.vision, checkpoint.config.text
    config = {
        "architectures": ["ChineseCLIPModel"],
        "model_type": "chinese_clip",
        "projection_dim": checkpoint.config.embed_dim,
        "logit_scale_init_value": float(checkpoint.weights["logit_scale"]),
        "torch_dtype": dtype,
        "vision_config": {
            "model_type": "chinese_clip_vision_model",
            "hidden_size": vision.width,
            "intermediate_size": 4 * vision.width,
            "num_hidden_layers": vision.layers,
            "num_attention_heads": vision.heads,
            "image_size": vision.resolution,
            "patch_size": vision.patch_size,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
            "projection_dim": checkpoint.config.embed_dim,
        },
        "text_config": {
            "model_type": "chinese_clip_text_model",
            "vocab_size": text.vocab_size,
            "hidden_size": text.width,
            "intermediate_size": text.intermediate_width,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "max_position_embeddings": text.max_positions,
            "type_vocab_size": text.type_vocab_size,
            "hidden_act": text.activation,
            "layer_norm_eps": 1e-12,
            "pad_token_id": checkpoint.config.pad_id,
        },
    }
    side = {"height": vision.resolution, "width": vision.resolution}
    preprocessor = {
        "image_processor_type": "ChineseCLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": side,
        "resample": 3,
        "do_center_crop": False,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": list(checkpoint.mean),
        "image_std": list(checkpoint.std),
    }
    tokenizer = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    return {
        CONFIG: config,
        PREPROCESSOR_CONFIG: preprocessor,
        "tokenizer_config.json": tokenizer,
    }
