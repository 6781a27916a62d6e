"""The text tower: a BERT encoder (Devlin et al. 2018, arXiv:1810.04805) without its pooler.

Names of submodules are those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import TextConfig
from .layers import Stack, attention

LAYER_NORM_EPSILON = 1e-12
EMBEDDING_STD = 0.02

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "swish": F.silu,
}


class BertEmbeddings(nn.Module):
    """Word, position and segment embeddings, summed and normalised."""

    def __init__(self, config: TextConfig, dropout: float) -> None:
        super().__init__()
        self.word_embeddings = _embedding(config.vocab_size, config.width)
        self.position_embeddings = _embedding(config.max_positions, config.width)
        self.token_type_embeddings = _embedding(config.type_vocab_size, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPSILON)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids, int64 [n, l], to float [n, l, width]."""
        x = self.word_embeddings(ids) + self.position_embeddings.weight[: ids.size(1)]
        return self.dropout(self.LayerNorm(x + self.token_type_embeddings.weight[0]))


def _embedding(rows: int, width: int) -> nn.Embedding:
    """An embedding without weights.

    `nn.Embedding` draws them. On the meta device, that imports torch._dynamo, which takes seconds.
    """
    weight = torch.empty(rows, width)
    return nn.Embedding.from_pretrained(weight, freeze=False)  # type: ignore[no-untyped-call]


class SelfAttention(nn.Module):
    """Query, key and value projections and the attention itself."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Float [n, l, width] to the same shape; mask: bool [n, l], False for padding."""
        return attention(self.query(x), self.key(x), self.value(x), self.heads, mask)


class ResidualOutput(nn.Module):
    """A linear layer whose output is added to the residual and normalised."""

    def __init__(self, in_width: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(in_width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=LAYER_NORM_EPSILON)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """Project, add, normalise: float [n, l, in_width] to [n, l, width]."""
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class Attention(nn.Module):
    """Self-attention with its output layer."""

    def __init__(self, config: TextConfig, dropout: float) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = ResidualOutput(config.width, config.width, dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Float [n, l, width] to the same shape."""
        return self.output(self.self(x, mask), x)


class Intermediate(nn.Module):
    """The wide linear layer with its activation."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.intermediate_width)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        """Float [n, l, width] to [n, l, intermediate_width]."""
        return self.activation(self.dense(x))


class Layer(nn.Module):
    """One post-norm encoder layer."""

    def __init__(self, config: TextConfig, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(config, dropout)
        self.intermediate = Intermediate(config)
        self.output = ResidualOutput(config.intermediate_width, config.width, dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Float [n, l, width] to the same shape."""
        x = self.attention(x, mask)
        return self.output(self.intermediate(x), x)


class Encoder(Stack):
    """The layers."""

    def __init__(self, config: TextConfig, dropout: float) -> None:
        super().__init__()
        self.layer = nn.ModuleList([Layer(config, dropout) for _ in range(config.layers)])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Float [n, l, width] to the same shape."""
        return self.apply_layers(self.layer, x, mask)


class Bert(nn.Module):
    """Token ids to the last hidden state of each text's first token.

    Dropout is BERT's: after the embeddings and after each output layer.
    """

    def __init__(self, config: TextConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.embeddings = BertEmbeddings(config, dropout)
        self.encoder = Encoder(config, dropout)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Int64 [n, l] and bool [n, l] (False: padding) to float [n, width]."""
        return self.encoder(self.embeddings(ids), mask)[:, 0]

    def initialize(self) -> None:
        """Draw random weights: embeddings as BERT does, layers by their width as CLIP does.

        BERT's 0.02 for all is too little for layers that are much narrower than BERT's.
        """
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=EMBEDDING_STD)
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=self.config.width**-0.5)
                nn.init.zeros_(module.bias)
