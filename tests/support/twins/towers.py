"""Both towers once more, in plain torch functions of a checkpoint's tensors.

As ModelScope computes: what it rounds to float16 is rounded, all arithmetic is float32. Every text
goes through alone, with all its columns.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Weights = dict[str, Tensor]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
    "gelu_new": lambda x: (
        0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))
    ),
    "relu": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "swish": lambda x: x / (1 + torch.exp(-x)),
}

# Of a ViT: linear and convolution layers, attention, projections, and BERT as a whole.
_ROUNDED = re.compile(
    r"bert\..*|text_projection|visual\.proj|visual\.conv1\.weight"
    r"|visual\.transformer\.resblocks\.\d+\.(attn|mlp)\..*"
)


def rounded(weights: Weights) -> Weights:
    """float32 weights, those that ModelScope keeps in float16 rounded to it."""
    return {
        name: value.half().float() if _ROUNDED.fullmatch(name) else value.float()
        for name, value in weights.items()
    }


def norm(x: Tensor, weights: Weights, name: str, epsilon: float) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    deviation = torch.sqrt((centered**2).mean(-1, keepdim=True) + epsilon)
    return centered / deviation * weights[name + ".weight"] + weights[name + ".bias"]


def linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    return x @ weights[name + ".weight"].T + weights[name + ".bias"]


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """[rows, width] each; mask [rows] is added to the scores."""
    mixed = []
    for q, k, v in zip(*(t.chunk(heads, dim=-1) for t in (query, key, value)), strict=True):
        scores = q @ k.T / math.sqrt(q.shape[-1])
        mixed.append(torch.softmax(scores if mask is None else scores + mask, dim=-1) @ v)
    return torch.cat(mixed, dim=-1)


def unit(x: Tensor) -> Tensor:
    return x / torch.sqrt((x**2).sum())


def encode_image(pixels: Tensor, weights: Weights, heads: int) -> Tensor:
    """float32 [3, r, r] to [d], by a ViT."""
    kernel = weights["visual.conv1.weight"]
    patches = functional.unfold(pixels[None], kernel.shape[-1], stride=kernel.shape[-1])[0]
    x = torch.cat([weights["visual.class_embedding"][None], patches.T @ kernel.flatten(1).T])
    x = norm(x + weights["visual.positional_embedding"], weights, "visual.ln_pre", 1e-5)
    layers = {name.split(".")[3] for name in weights if name.startswith("visual.transformer")}
    for layer in range(len(layers)):
        block = f"visual.transformer.resblocks.{layer}."
        y = norm(x, weights, block + "ln_1", 1e-5)
        y = y @ weights[block + "attn.in_proj_weight"].T + weights[block + "attn.in_proj_bias"]
        y = attend(*y.chunk(3, dim=-1), heads, None)
        x = x + linear(y, weights, block + "attn.out_proj")
        y = linear(norm(x, weights, block + "ln_2", 1e-5), weights, block + "mlp.c_fc")
        x = x + linear(y / (1 + torch.exp(-1.702 * y)), weights, block + "mlp.c_proj")
    return unit(norm(x[0], weights, "visual.ln_post", 1e-5) @ weights["visual.proj"])


def encode_text(
    ids: Tensor, weights: Weights, heads: int, activation: str, pad_id: int = 0
) -> Tensor:
    """int64 [l] to float32 [d], by BERT; columns with the id of [PAD] are masked."""
    mask = (ids == pad_id) * -10000.0
    x = weights["bert.embeddings.word_embeddings.weight"][ids]
    x = x + weights["bert.embeddings.position_embeddings.weight"][: len(ids)]
    x = x + weights["bert.embeddings.token_type_embeddings.weight"][0]
    x = norm(x, weights, "bert.embeddings.LayerNorm", 1e-12)
    layers = {name.split(".")[3] for name in weights if name.startswith("bert.encoder.layer")}
    for layer in range(len(layers)):
        name = f"bert.encoder.layer.{layer}."
        parts = (linear(x, weights, f"{name}attention.self.{part}") for part in PARTS)
        y = linear(attend(*parts, heads, mask), weights, name + "attention.output.dense")
        x = norm(x + y, weights, name + "attention.output.LayerNorm", 1e-12)
        y = ACTIVATIONS[activation](linear(x, weights, name + "intermediate.dense"))
        y = linear(y, weights, name + "output.dense")
        x = norm(x + y, weights, name + "output.LayerNorm", 1e-12)
    return unit(x[0] @ weights["text_projection"])


PARTS = ("query", "key", "value")
