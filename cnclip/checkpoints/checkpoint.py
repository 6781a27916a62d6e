"""What every reader answers."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..modeling import ClipConfig


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's content, whatever format it came in.

    Attributes:
        config: Sizes of both towers.
        weights: Tensors by cn_clip's names, with the types that the checkpoint stores.
        vocabulary: The vocab.txt's bytes.
        format: The format's name, such as "modelscope".
        rounds_to_half: Whether the format's own software rounds the linear layers to float16.
    """

    config: ClipConfig
    weights: dict[str, torch.Tensor]
    vocabulary: bytes
    format: str
    rounds_to_half: bool
