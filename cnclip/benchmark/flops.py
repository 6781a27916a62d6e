"""Counts the arithmetic operations of one embedding, from the sizes in an archive's metadata.

A multiply-add counts as two operations. The count covers the matrix products: linear layers,
convolutions, queries with keys, weights with values. Norms, activations, softmax, additions and
table look-ups are a few per cent and are not counted; the measured peak does not cover them either.
The output of a tower depends only on [CLS], so the last layer counts keys and values for every row
and the rest for one row, whether or not an implementation makes use of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Sizes = Mapping[str, Any]


def image_flops(architecture: Sizes) -> int:
    """Count the operations of one image.

    Args:
        architecture: `metadata['architecture']` of an archive.
    """
    vision, embed_dim = architecture["vision"], architecture["embed_dim"]
    if isinstance(vision["layers"], int):
        return _vit_flops(vision, embed_dim)
    return _resnet_flops(vision, embed_dim)


def text_flops(architecture: Sizes, tokens: int) -> int:
    """Count the operations of one text.

    Args:
        architecture: `metadata['architecture']` of an archive.
        tokens: Tokens of the text, including [CLS] and [SEP]; padding needs no arithmetic.
    """
    text = architecture["text"]
    width, inner = text["width"], text["intermediate_width"]
    layers = _transformer_flops(text["layers"], tokens, width, inner)
    return layers + _linear(1, width, architecture["embed_dim"])


def _linear(rows: int, inputs: int, outputs: int) -> int:
    return 2 * rows * inputs * outputs


def _attention(queries: int, keys: int, width: int) -> int:
    """Queries with keys, and weights with values, of all heads."""
    return 2 * 2 * queries * keys * width


def _transformer_flops(layers: int, rows: int, width: int, inner: int) -> int:
    def layer(queries: int) -> int:
        return (
            _linear(rows, width, 2 * width)
            + _linear(queries, width, 2 * width)  # to queries, and after the attention
            + _attention(queries, rows, width)
            + 2 * _linear(queries, width, inner)
        )

    return (layers - 1) * layer(rows) + layer(1)


def _vit_flops(vision: Sizes, embed_dim: int) -> int:
    width, patch = vision["width"], vision["patch_size"]
    patches = (vision["resolution"] // patch) ** 2
    return (
        _linear(patches, 3 * patch * patch, width)
        + _transformer_flops(vision["layers"], patches + 1, width, 4 * width)
        + _linear(1, width, embed_dim)
    )


def _resnet_flops(vision: Sizes, embed_dim: int) -> int:
    """CLIP's ModifiedResNet: a stem of three convolutions, four stages, attention pooling."""
    width = vision["width"]
    side = (vision["resolution"] + 1) // 2
    total = _linear(side**2, 9 * 3, width // 2)
    total += _linear(side**2, 9 * width // 2, width // 2) + _linear(side**2, 9 * width // 2, width)
    side //= 2
    inputs = width
    for stage, blocks in enumerate(vision["layers"]):
        planes = width << stage
        for block in range(blocks):
            # The first block of each later stage halves the side after its 3 x 3 convolution.
            halved = side // 2 if stage and not block else side
            total += _linear(side**2, inputs, planes) + _linear(side**2, 9 * planes, planes)
            total += _linear(halved**2, planes, 4 * planes)
            if not block:
                total += _linear(halved**2, inputs, 4 * planes)
            side, inputs = halved, 4 * planes
    rows = side**2 + 1
    total += _linear(rows, inputs, 2 * inputs) + _linear(1, inputs, inputs)
    return total + _attention(1, rows, inputs) + _linear(1, inputs, embed_dim)
