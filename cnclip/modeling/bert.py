"""The text tower: a BERT encoder (Devlin et al. 2018, arXiv:1810.04805) without its pooler.

Names of submodules and parameters are those of the published checkpoints.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from .config import TextConfig
from .layers import Embedding, LayerNorm, Linear, attention

LAYER_NORM_EPSILON = 1e-12


class Embeddings(nn.Module):
    """Word, position and segment embeddings, summed and normalised."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.word_embeddings = Embedding(config.vocab_size, config.width)
        self.position_embeddings = Embedding(config.max_positions, config.width)
        self.token_type_embeddings = Embedding(config.type_vocab_size, config.width)
        self.LayerNorm = LayerNorm(config.width, eps=LAYER_NORM_EPSILON)

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        """Make the tables ready."""
        self.word_embeddings.prepare(precision)
        self.position_embeddings.prepare(precision)
        self.token_type_embeddings.prepare(precision)
        self.LayerNorm.prepare(precision)

    def forward(self, ids: Tensor) -> Tensor:
        """Int64 [n, l] to float [n, l, width]."""
        positions = self.position_embeddings.weight[: ids.size(1)]
        segment = self.token_type_embeddings.weight[0]
        return self.LayerNorm(self.word_embeddings(ids) + positions + segment)


class SelfAttention(nn.Module):
    """Query, key and value projections and the attention itself."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = Linear(config.width, config.width)
        self.key = Linear(config.width, config.width)
        self.value = Linear(config.width, config.width)

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        """Make the projections ready."""
        self.query.prepare(precision)
        self.key.prepare(precision)
        self.value.prepare(precision)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Mix the columns of each text, float [n, l, width]."""
        return attention(self.query(x), self.key(x), self.value(x), self.heads, mask)


class ResidualOutput(nn.Module):
    """A linear layer whose answer is added to the residual and normalised."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.dense = Linear(in_width, width)
        self.LayerNorm = LayerNorm(width, eps=LAYER_NORM_EPSILON)

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        """Make the layers ready."""
        self.dense.prepare(precision)
        self.LayerNorm.prepare(precision)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """Project, add, normalise."""
        return self.LayerNorm(self.dense(x) + residual)


class Attention(nn.Module):
    """Self-attention with its output layer."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = ResidualOutput(config.width, config.width)

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        """Make the layers ready."""
        self.self.prepare(precision)
        self.output.prepare(precision)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Mix the columns of each text and add the residual."""
        return self.output(self.self(x, mask), x)


class Intermediate(nn.Module):
    """The wide linear layer with its activation."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.dense = Linear(config.width, config.intermediate_width)

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        """Make the layer ready."""
        self.dense.prepare(precision)

    def forward(self, x: Tensor) -> Tensor:
        """Widen each row and activate it."""
        x = self.dense(x)
        if self.activation == "gelu":
            return functional.gelu(x)
        if self.activation == "relu":
            return functional.relu(x)
        if self.activation == "swish":
            return x * torch.sigmoid(x)
        # gelu_new: the approximation by tanh
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


class Layer(nn.Module):
    """One post-norm encoder layer."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = Intermediate(config)
        self.output = ResidualOutput(config.intermediate_width, config.width)

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        """Make the layers ready."""
        self.attention.prepare(precision)
        self.intermediate.prepare(precision)
        self.output.prepare(precision)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Apply attention and feed-forward, float [n, l, width]."""
        x = self.attention(x, mask)
        return self.output(self.intermediate(x), x)


class Encoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList([Layer(config) for _ in range(config.layers)])

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        """Make the layers ready."""
        for layer in self.layer:
            layer.prepare(precision)  # type: ignore[operator]

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Apply every layer."""
        for layer in self.layer:
            x = layer(x, mask)
        return x


class Bert(nn.Module):
    """Token ids to hidden states."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        """Make the tower ready."""
        self.embeddings.prepare(precision)
        self.encoder.prepare(precision)

    def forward(self, ids: Tensor, attended: Tensor) -> Tensor:
        """Int64 [n, l] and bool [n, l] (False: masked) to float [n, l, width]."""
        x = self.embeddings(ids)
        # Added to the scores as BERT has it; float32's exp(-10000) is 0.
        mask = (1.0 - attended.to(x.dtype)) * -10000.0
        return self.encoder(x, mask[:, None, None, :])
