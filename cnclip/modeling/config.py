"""Sizes of a Chinese-CLIP."""

from __future__ import annotations

from dataclasses import dataclass

# Mean and standard deviation of red, green and blue in CLIP's images, scaled to 0..1.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# Ids at which the published models cut texts, [CLS] and [SEP] included.
CONTEXT_LENGTH = 52
ACTIVATIONS = ("gelu", "gelu_new", "relu", "swish")


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower: a ViT, or a ModifiedResNet where `layers` is a tuple of four."""

    resolution: int  # pixels per side of the square input
    layers: int | tuple[int, int, int, int]  # bottleneck blocks in each of a ResNet's four stages
    width: int  # columns of the ViT, or channels after the ResNet's stem
    patch_size: int | None  # pixels per side of a ViT's patch; None for a ResNet
    head_width: int = 64  # columns of one attention head

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
    """The text tower, a BERT encoder."""

    vocab_size: int  # rows of the word embedding
    width: int  # columns of the hidden states
    layers: int
    heads: int  # attention heads of each layer
    intermediate_width: int  # columns between a layer's two dense layers
    max_positions: int  # rows of the position embedding: the longest text in ids
    type_vocab_size: int  # rows of the segment embedding, of which the first is used
    activation: str = "gelu"  # one of ACTIVATIONS


@dataclass(frozen=True)
class ClipConfig:
    """Both towers and the width of the space that they share."""

    embed_dim: int  # columns of the embeddings
    vision: VisionConfig
    text: TextConfig
    pad_id: int = 0  # the id of [PAD] in the vocabulary; columns with this id are masked
