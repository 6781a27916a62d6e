"""Sizes of a Chinese-CLIP."""

from __future__ import annotations

from dataclasses import dataclass

# Mean and standard deviation of red, green and blue in CLIP's images, scaled to 0..1.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
ACTIVATIONS = ("gelu", "gelu_new", "relu", "swish")


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower: a ViT, or a ModifiedResNet where `layers` is a tuple of four.

    Attributes:
        resolution: Pixels per side of the square input.
        layers: Transformer layers, or bottleneck blocks in each of the four stages.
        width: Columns of the ViT, or channels after the ResNet's stem.
        patch_size: Pixels per side of a ViT's patch; None for a ResNet.
        head_width: Columns of one attention head.
    """

    resolution: int
    layers: int | tuple[int, int, int, int]
    width: int
    patch_size: int | None
    head_width: int = 64

    @property
    def heads(self) -> int:
        """Attention heads of each ViT layer, or of the ResNet's pooling."""
        return self.feature_width // self.head_width

    @property
    def feature_width(self) -> int:
        """Columns of the attention's input."""
        return self.width if isinstance(self.layers, int) else self.width * 32


@dataclass(frozen=True)
class TextConfig:
    """The text tower, a BERT encoder.

    Attributes:
        vocab_size: Rows of the word embedding.
        width: Columns of the hidden states.
        layers: Encoder layers.
        heads: Attention heads of each layer.
        intermediate_width: Columns between a layer's two dense layers.
        max_positions: Rows of the position embedding: the longest text in ids.
        type_vocab_size: Rows of the segment embedding, of which the first is used.
        activation: One of ACTIVATIONS.
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    intermediate_width: int
    max_positions: int
    type_vocab_size: int
    activation: str = "gelu"


@dataclass(frozen=True)
class ClipConfig:
    """Both towers and the width of the space that they share.

    Attributes:
        embed_dim: Columns of the embeddings.
        vision: The vision tower.
        text: The text tower.
        pad_id: The id of [PAD] in the vocabulary; columns with this id are masked.
    """

    embed_dim: int
    vision: VisionConfig
    text: TextConfig
    pad_id: int = 0
