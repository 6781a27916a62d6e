"""What every reader answers, and every writer takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..modeling.config import CLIP_MEAN, CLIP_STD, ClipConfig

Weights = dict[str, torch.Tensor]


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
