"""Attention and the stack of layers, which both transformers share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def attention(
    query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None
) -> Tensor:
    """Multi-head scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762).

    Args:
        query: float [n, queries, width].
        key: float [n, keys, width].
        value: float [n, keys, width].
        heads: Number of heads, which divides the width.
        mask: bool [n, keys], False for keys to ignore.

    Returns:
        float [n, queries, width].
    """

    def by_head(x: Tensor) -> Tensor:
        return x.view(x.size(0), x.size(1), heads, x.size(2) // heads).transpose(1, 2)

    wide = None if mask is None else mask[:, None, None, :]
    q, k, v = by_head(query), by_head(key), by_head(value)
    if q.dtype == torch.bfloat16 and not q.is_cuda:
        # On CPUs torch's own function runs bfloat16 head by head, 2 to 8 times slower than this.
        scores = (q * q.size(-1) ** -0.5) @ k.transpose(-1, -2)
        if wide is not None:
            scores = scores.masked_fill(~wide, -torch.inf)
        mixed = scores.softmax(dim=-1) @ v
    else:
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=wide)
    return mixed.transpose(1, 2).flatten(-2)


class Stack(nn.Module):
    """Layers that are applied one after the other.

    Attributes:
        recompute: Recompute each layer's activations in the backward pass instead of keeping them
            (gradient checkpointing).
    """

    recompute = False

    def apply_layers(self, layers: nn.ModuleList, x: Tensor, *more: Tensor) -> Tensor:
        """Apply every layer to `x` and the same further arguments."""
        for layer in layers:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(layer, x, *more, use_reentrant=False)
            else:
                x = layer(x, *more)
        return x
