"""The content of a checkpoint, which every reader returns and every writer takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..modeling.clip import ChineseClip
from ..modeling.config import CLIP_MEAN, CLIP_STD, ClipConfig

Weights = dict[str, torch.Tensor]
NamedTensor = tuple[str, torch.Tensor]

# Not float8: the operators that are used here do not convert it.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MAX_NAME = 200


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's content, independent of its format.

    Attributes:
        config: Sizes of both towers.
        weights: Tensors by cn_clip's names, in the types that the checkpoint stores.
        vocabulary: The vocab.txt's bytes.
        format: The format's name, such as "modelscope".
        rounds_to_half: Whether the format's software rounds the linear layers to float16.
        mean: Mean of red, green and blue in the normalisation of pixels scaled to 0..1.
        std: Standard deviation of red, green and blue in the normalisation.
    """

    config: ClipConfig
    weights: Weights
    vocabulary: bytes
    format: str
    rounds_to_half: bool
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def check_normalisation(self, format: str) -> None:
        """Raise a CheckpointError if it is not CLIP's, for a format that cannot store another."""
        if (self.mean, self.std) != (CLIP_MEAN, CLIP_STD):
            raise CheckpointError(
                f"{format}'s format cannot store a mean and standard deviation other than CLIP's"
            )


@dataclass(frozen=True)
class Hints:
    """Facts that a checkpoint without a configuration does not contain.

    Attributes:
        vision_head_width: Columns of one attention head of the vision tower.
        text_head_width: Columns of one attention head of the text tower.
        vocabulary: The vocab.txt's bytes; by default the published models'.
    """

    vision_head_width: int | None = None
    text_head_width: int | None = None
    vocabulary: bytes | None = None


def by_name(path: Path, tensors: Iterable[tuple[Any, Any]]) -> Weights:
    """Tensors by their names.

    Raises:
        CheckpointError: a name is not a string or occurs twice, or a value is not a tensor.
    """
    weights: Weights = {}
    for name, value in tensors:
        if not isinstance(name, str):
            raise CheckpointError("expected tensors by their names", file=path)
        if len(name) > _MAX_NAME or not name.isprintable():
            raise CheckpointError(f"damaged: a tensor named {name!r:.100}", file=path)
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{name}: expected a tensor, found {type(value)}", file=path)
        if name in weights:
            raise CheckpointError(f"duplicate tensor {name}", file=path)
        weights[name] = value
    return weights


def empty_model(config: ClipConfig) -> ChineseClip:
    """The model of a configuration, on the meta device: without memory for its weights."""
    with torch.device("meta"):
        return ChineseClip(config)
