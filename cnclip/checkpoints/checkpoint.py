"""What every reader answers, and every writer takes."""

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

# Those of float8 are converted by no torch operator that we use.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MAX_NAME = 200


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's content, whatever format it came in.

    Attributes:
        config: Sizes of both towers.
        weights: Tensors by cn_clip's names, with the types that the checkpoint stores.
        vocabulary: The vocab.txt's bytes.
        format: The format's name, such as "modelscope".
        rounds_to_half: Whether the format's own software rounds the linear layers to float16.
        mean: Means of the normalisation, red, green, blue, of pixels scaled to 0..1.
        std: Standard deviations of the normalisation.
    """

    config: ClipConfig
    weights: Weights
    vocabulary: bytes
    format: str
    rounds_to_half: bool
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def check_normalisation(self, format: str) -> None:
        """Raise a CheckpointError for a format that has no place for another than CLIP's."""
        if (self.mean, self.std) != (CLIP_MEAN, CLIP_STD):
            raise CheckpointError(f"{format}'s format has no place for means that are not CLIP's")


@dataclass(frozen=True)
class Hints:
    """What a checkpoint without a configuration does not tell.

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
        CheckpointError: a name that is none or stands there twice, or something else than a tensor.
    """
    weights: Weights = {}
    for name, value in tensors:
        if not isinstance(name, str):
            raise CheckpointError(f"{path}: expected tensors by their names")
        if len(name) > _MAX_NAME or not name.isprintable():
            raise CheckpointError(f"{path}: damaged: a tensor of the name {name!r:.100}")
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{path}: {name}: expected a tensor, found {type(value)}")
        if name in weights:
            raise CheckpointError(f"{path}: it has the tensor {name} twice")
        weights[name] = value
    return weights


def empty_model(config: ClipConfig) -> ChineseClip:
    """The model that a checkpoint is of; on the meta device nothing is allocated."""
    with torch.device("meta"):
        return ChineseClip(config)
