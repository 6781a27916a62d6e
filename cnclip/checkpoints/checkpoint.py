"""The content of a checkpoint, which every reader returns and every writer takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..errors import CheckpointError
from ..modeling.clip import ChineseClip
from ..modeling.config import CLIP_MEAN, CLIP_STD, ClipConfig

Weights = dict[str, torch.Tensor]
NamedTensor = tuple[str, torch.Tensor]

# Not float8: the operators that are used here do not convert it.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's content, independent of its format."""

    config: ClipConfig
    weights: Weights  # by cn_clip's names, in the types that the checkpoint stores
    vocabulary: bytes  # of the vocab.txt
    rounds_to_half: bool  # whether the format's software rounds the linear layers to float16
    # Of red, green and blue, in the normalisation of pixels scaled to 0..1.
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
    """Facts that a checkpoint without a configuration does not contain."""

    vision_head_width: int | None = None  # columns of one attention head
    text_head_width: int | None = None
    vocabulary: bytes | None = None  # of the vocab.txt; by default the published models'


def empty_model(config: ClipConfig) -> ChineseClip:
    """The model of a configuration, on the meta device: without memory for its weights."""
    with torch.device("meta"):
        return ChineseClip(config)
