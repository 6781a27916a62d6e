"""Checkpoints of the published families at reduced size, with random weights."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cnclip import pipeline
from cnclip.checkpoints.checkpoint import Checkpoint, Weights
from cnclip.checkpoints.published_sizes import PUBLISHED_SIZES
from cnclip.checkpoints.vocabulary import PUBLISHED_VOCABULARY
from cnclip.modeling.clip import ChineseClip
from cnclip.modeling.config import ClipConfig

pytest.importorskip("safetensors")

TEXTS = ["", "猫", "一个在逛公园的女孩", "abc 狗 x", "猫" * 80]
WORDS = PUBLISHED_VOCABULARY


def smaller(name: str) -> ClipConfig:
    """A published family at reduced depth and width, with the width of its heads."""
    known = PUBLISHED_SIZES[name]
    heads = 2 if isinstance(known.vision.layers, int) else 1
    vision = dataclasses.replace(
        known.vision,
        resolution=64 if name == "RN50" else 3 * (known.vision.patch_size or 0),
        layers=2 if isinstance(known.vision.layers, int) else (1, 2, 1, 1),
        width=heads * known.vision.head_width if name != "RN50" else 4,
    )
    text = dataclasses.replace(known.text, width=128, heads=2, layers=2, intermediate_width=160)
    return dataclasses.replace(known, embed_dim=24, vision=vision, text=text)


def random_weights(config: ClipConfig) -> Weights:
    """Numbers that float16 holds, so that formats whose software rounds to it give the same.

    Calls share the tensors, which no test may change in place.
    """
    return dict(_random_weights(config))


@functools.cache
def _random_weights(config: ClipConfig) -> Weights:
    with torch.device("meta"):
        model = ChineseClip(config)
    generator = torch.Generator().manual_seed(0)
    weights: Weights = {}
    for name, wanted in model.state_dict().items():
        value = torch.randn(wanted.shape, generator=generator) * 0.2
        if name.endswith("running_var") or (wanted.ndim == 1 and name.endswith("weight")):
            value = 1 + value.abs()
        if name == "logit_scale":
            value = torch.tensor(2.5)
        if not wanted.is_floating_point():
            value = torch.zeros(wanted.shape, dtype=wanted.dtype)
        weights[name] = value.half().float() if value.is_floating_point() else value
    return weights


def checkpoint_of(config: ClipConfig) -> Checkpoint:
    return Checkpoint(config, random_weights(config), WORDS.read_bytes(), False)


def head_width(name: str) -> dict[str, int]:
    return {"vision_head_width": PUBLISHED_SIZES[name].vision.head_width}


def embed(model: Path, image: Image.Image) -> dict[str, Any]:
    return pipeline(model=model, device="cpu").forward({"img": image, "text": TEXTS})


def check_same(model: Path, image: Image.Image, expected: dict[str, Any]) -> None:
    for key, rows in embed(model, image).items():
        np.testing.assert_allclose(rows, expected[key], rtol=0, atol=2e-6)
