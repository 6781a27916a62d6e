"""The content of a checkpoint, which every reader returns and every writer takes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import CheckpointError
from ..modeling.clip import ChineseClip
from ..modeling.config import CLIP_MEAN, CLIP_STD, CONTEXT_LENGTH, ClipConfig

Weights = dict[str, torch.Tensor]

# Not float8: the operators that are used here do not convert it.
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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
    # Ids at which texts are cut, [CLS] and [SEP] included, where the text tower has as many
    # positions.
    max_text_ids: int = CONTEXT_LENGTH

    # Whether its description says that it was trained on texts of `normalize_text`.
    normalized_texts: bool = False

    @property
    def context_length(self) -> int:
        """Ids at which texts are cut, [CLS] and [SEP] included."""
        return min(self.max_text_ids, self.config.text.max_positions)

    @property
    def usual_context_length(self) -> int:
        """Ids at which the published models cut texts, or fewer if it has fewer positions."""
        return min(CONTEXT_LENGTH, self.config.text.max_positions)

    @property
    def has_usual_context_length(self) -> bool:
        """Whether texts are cut where the published models cut them."""
        return self.context_length == self.usual_context_length

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


def check_tensors(
    weights: Weights,
    shapes: Mapping[str, Sequence[int]],
    file: Path | None,
    optional: Collection[str] = (),
) -> None:
    """Raise a CheckpointError that names tensors which are missing, unknown or do not fit.

    Args:
        weights: The tensors of a file or directory.
        shapes: The shapes that they must have.
        file: The file or directory, for messages, if there is one.
        optional: Names of tensors that may be missing, and are not checked.
    """
    problems = [f"no tensor {name}" for name in shapes.keys() - weights.keys() - set(optional)]
    problems += [
        f"a tensor {name} that this architecture does not have"
        for name in weights.keys() - shapes.keys()
    ]
    for name in shapes.keys() & weights.keys() - set(optional):
        expected, value = list(shapes[name]), weights[name]
        if list(value.shape) != expected:
            problems.append(f"{name} of shape {list(value.shape)}, expected {expected}")
        elif value.dtype not in _FLOATS or value.layout != torch.strided:
            problems.append(f"{name} of type {value.dtype}, expected dense floats")
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        found = "; ".join(sorted(problems)[:5])
        raise CheckpointError(f"the checkpoint has {found}{more}", file=file)
