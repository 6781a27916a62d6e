"""The text tower: a BERT encoder (Devlin et al. 2018, arXiv:1810.04805) without its pooler.

Names of submodules and parameters are those of the published checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import TextConfig
from .layers import LayerNorm, Linear, first_rows, pack, self_attention

LAYER_NORM_EPSILON = 1e-12


class Embeddings(nn.Module):
    """Word, position and segment embeddings, summed and normalised."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.width)
        self.position_embeddings = nn.Embedding(config.max_positions, config.width)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.width)
        self.LayerNorm = LayerNorm(config.width, eps=LAYER_NORM_EPSILON)

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        """Make the norm ready; of the tables, only the rows that a text takes are widened."""
        self.LayerNorm.prepare(precision)

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Int64 [rows] each to float [rows, width]."""
        dtype = self.LayerNorm.weight.dtype
        x = self.word_embeddings(ids).to(dtype) + self.position_embeddings(positions).to(dtype)
        out: Tensor = self.LayerNorm(x + self.token_type_embeddings.weight[0].to(dtype))
        return out


class SelfAttention(nn.Module):
    """Query, key and value projections and the attention itself.

    Prepared, the query's layer holds all three projections one above the other.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.fused = False
        self.query = Linear(config.width, config.width)
        self.key = Linear(config.width, config.width)
        self.value = Linear(config.width, config.width)

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        """Fuse the projections and make them ready."""
        weight, bias = self.projections()
        self.query.weight = pack(weight, precision)
        self.query.bias = bias.float()  # type: ignore[assignment]
        for linear in [self.key, self.value]:
            linear.weight = torch.empty(0)
            linear.bias = torch.empty(0)  # type: ignore[assignment]
        self.fused = True

    @torch.jit.export
    def projections(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of all three."""
        if self.fused:
            return self.query.weight, self.query.bias
        weights = [self.query.weight, self.key.weight, self.value.weight]
        return torch.cat(weights), torch.cat([self.query.bias, self.key.bias, self.value.bias])

    def forward(self, x: Tensor, starts: Tensor, pooled: bool) -> Tensor:
        """Mix the rows of each text, float [rows, width]."""
        weight, bias = self.projections()
        return self_attention(x, weight, bias, self.heads, starts, pooled)


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
        out: Tensor = self.LayerNorm(self.dense(x, residual=residual))
        return out


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

    def forward(self, x: Tensor, starts: Tensor, pooled: bool) -> Tensor:
        """Mix the rows of each text and add the residual."""
        residual = first_rows(x, starts) if pooled else x
        out: Tensor = self.output(self.self(x, starts, pooled), residual)
        return out


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
        out: Tensor = self.dense(x, self.activation)
        return out


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

    def forward(self, x: Tensor, starts: Tensor, pooled: bool) -> Tensor:
        """Float [rows, width] to the same, or to each text's first row if pooled."""
        x = self.attention(x, starts, pooled)
        out: Tensor = self.output(self.intermediate(x), x)
        return out


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

    def forward(self, x: Tensor, starts: Tensor) -> Tensor:
        """Float [rows, width] to [texts, width]: every layer, the last for first rows only."""
        for i, layer in enumerate(self.layer):
            x = layer(x, starts, i + 1 == len(self.layer))
        return x


class Bert(nn.Module):
    """Token ids to the last hidden state of each text's first token."""

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
        """Int64 [n, l] and bool [n, l] (False: not part of the text) to float [n, width]."""
        ends = attended.sum(1).cumsum(0).cpu()
        starts = torch.cat([torch.zeros([1], dtype=torch.long), ends])
        places = attended.flatten().nonzero().flatten()
        x = self.embeddings(ids.flatten().index_select(0, places), places % ids.size(1))
        out: Tensor = self.encoder(x, starts)
        return out
