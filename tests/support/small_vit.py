"""A ModelScope checkpoint of a small ViT with random weights, whole or with some parts changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cnclip import pipeline
from tests.support.twins import towers

Weights = dict[str, torch.Tensor]

VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"猫狗一个在逛公园的女孩abc",
    "##b",
    "##c",
]
TEXTS = ["", "猫", "一个在逛公园的女孩", "abc 狗 x", "猫" * 80]

VISION = {
    "embed_dim": 24,
    "image_resolution": 32,
    "vision_layers": 2,
    "vision_width": 48,
    "vision_patch_size": 8,
    "vision_head_width": 16,
}
TEXT = {
    "vocab_size": 40,
    "text_attention_probs_dropout_prob": 0.1,
    "text_hidden_act": "gelu",
    "text_hidden_dropout_prob": 0.1,
    "text_hidden_size": 32,
    "text_initializer_range": 0.02,
    "text_intermediate_size": 80,
    "text_max_position_embeddings": 60,
    "text_num_attention_heads": 4,
    "text_num_hidden_layers": 2,
    "text_type_vocab_size": 2,
}


def random_weights(vision: dict[str, Any], text: dict[str, Any], seed: int = 0) -> Weights:
    """A ViT checkpoint's tensors, large enough that a wrong activation or rounding shows."""
    width, hidden, dim = vision["vision_width"], text["text_hidden_size"], vision["embed_dim"]
    patch, inner = vision["vision_patch_size"], text["text_intermediate_size"]
    rows = (vision["image_resolution"] // patch) ** 2 + 1
    shapes: dict[str, tuple[int, ...]] = {
        "text_projection": (hidden, dim),
        "logit_scale": (),
        "visual.class_embedding": (width,),
        "visual.positional_embedding": (rows, width),
        "visual.proj": (width, dim),
        "visual.conv1.weight": (width, 3, patch, patch),
        "bert.embeddings.word_embeddings.weight": (text["vocab_size"], hidden),
        "bert.embeddings.position_embeddings.weight": (
            text["text_max_position_embeddings"],
            hidden,
        ),
        "bert.embeddings.token_type_embeddings.weight": (text["text_type_vocab_size"], hidden),
    }
    layers: dict[str, tuple[int, ...]] = {}
    norms = {"visual.ln_pre": width, "visual.ln_post": width, "bert.embeddings.LayerNorm": hidden}
    for layer in range(vision["vision_layers"]):
        block = f"visual.transformer.resblocks.{layer}."
        shapes[block + "attn.in_proj_weight"] = (3 * width, width)
        shapes[block + "attn.in_proj_bias"] = (3 * width,)
        layers[block + "attn.out_proj"] = (width, width)
        layers[block + "mlp.c_fc"] = (4 * width, width)
        layers[block + "mlp.c_proj"] = (width, 4 * width)
        norms |= {block + "ln_1": width, block + "ln_2": width}
    for layer in range(text["text_num_hidden_layers"]):
        name = f"bert.encoder.layer.{layer}."
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            layers[f"{name}attention.{part}"] = (hidden, hidden)
        layers[name + "intermediate.dense"] = (inner, hidden)
        layers[name + "output.dense"] = (hidden, inner)
        norms |= {name + "attention.output.LayerNorm": hidden, name + "output.LayerNorm": hidden}
    generator = torch.Generator().manual_seed(seed)
    for name, shape in layers.items():
        shapes |= {name + ".weight": shape, name + ".bias": shape[:1]}
    weights = {
        name: torch.randn(shape, generator=generator) * (0.5 if "embed" in name else 0.2)
        for name, shape in shapes.items()
    }
    for name, size in norms.items():
        weights[name + ".weight"] = 1 + 0.1 * torch.randn(size, generator=generator)
        weights[name + ".bias"] = 0.1 * torch.randn(size, generator=generator)
    return weights


Make = Callable[..., Path]


def write_directory(
    parent: Path,
    content: Any = None,
    *,
    vision: dict[str, Any] | None = None,
    text: dict[str, Any] | None = None,
    vocabulary: list[str] = VOCABULARY,
    seed: int = 0,
) -> Path:
    """Write a model directory, with random weights unless `content` has tensors or bytes."""
    directory = parent / f"model-{len(list(parent.iterdir()))}"
    directory.mkdir()
    vision, text = VISION | (vision or {}), TEXT | (text or {})
    (directory / "vision_model_config.json").write_text(json.dumps(vision))
    (directory / "text_model_config.json").write_text(json.dumps(text))
    (directory / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    if content is None:
        content = random_weights(vision, text, seed)
    if isinstance(content, bytes):
        (directory / "pytorch_model.bin").write_bytes(content)
    else:
        torch.save(content, directory / "pytorch_model.bin")
    return directory


def check(
    directory: Path,
    image: Image.Image,
    weights: Weights,
    *,
    head_width: int = 16,
    activation: str = "gelu",
    pad_id: int = 0,
) -> None:
    """Compare a directory's embeddings with the plain twin's."""
    found = pipeline(model=directory, device="cpu")
    batch = found.preprocess({"img": image, "text": TEXTS})
    answer = found.forward({"img": image, "text": TEXTS})
    plain = towers.rounded(weights)
    vision_heads = plain["visual.class_embedding"].numel() // head_width
    row = towers.encode_image(torch.from_numpy(batch["img"][0]), plain, vision_heads)
    np.testing.assert_allclose(answer["img_embedding"][0], row.numpy(), rtol=0, atol=2e-6)
    for ids, text_row in zip(batch["text"], answer["text_embedding"], strict=True):
        text = towers.encode_text(torch.from_numpy(ids), plain, 4, activation, pad_id)
        np.testing.assert_allclose(text_row, text.numpy(), rtol=0, atol=2e-6)
    temperature = 1 / np.exp(np.float32(plain["logit_scale"]))
    np.testing.assert_allclose(found.model.temperature, temperature, rtol=1e-6)


# Numbers
