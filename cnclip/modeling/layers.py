"""The layers that both towers are built of.

Each is torch's own layer with a `prepare` that the C core calls once after loading an archive:
archives keep weights as the checkpoint had them, often float16, and arithmetic on the CPU is
float32. Its `type: ignore` comments are for tensors that take the place of parameters there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Linear(nn.Linear):
    """torch.nn.Linear that can be made ready for a precision."""

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        """Bring the weights to the type that `precision` computes in."""
        self.weight = self.weight.float()
        bias = self.bias  # TorchScript narrows the type of a local name only
        if bias is not None:
            self.bias = bias.float()  # type: ignore[assignment]


class Conv2d(nn.Conv2d):
    """torch.nn.Conv2d that can be made ready for a precision."""

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        """Bring the weights to the type that `precision` computes in."""
        self.weight = self.weight.float()
        bias = self.bias  # TorchScript narrows the type of a local name only
        if bias is not None:
            self.bias = bias.float()


class BatchNorm2d(nn.BatchNorm2d):
    """torch.nn.BatchNorm2d that can be made ready for a precision."""

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        """Bring the weights and statistics to float32."""
        self.weight = self.weight.float()  # type: ignore[assignment]
        self.bias = self.bias.float()  # type: ignore[assignment]
        mean, variance = self.running_mean, self.running_var
        if mean is not None and variance is not None:
            self.running_mean = mean.float()
            self.running_var = variance.float()


class LayerNorm(nn.LayerNorm):
    """torch.nn.LayerNorm that can be made ready for a precision."""

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        """Bring the weights to float32."""
        self.weight = self.weight.float()  # type: ignore[assignment]
        self.bias = self.bias.float()  # type: ignore[assignment]


class Embedding(nn.Embedding):
    """torch.nn.Embedding that can be made ready for a precision."""

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        """Bring the rows to float32."""
        self.weight = self.weight.float()


def attention(
    query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None
) -> Tensor:
    """Multi-head scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762).

    Args:
        query: Float [n, q, width].
        key: Float [n, k, width].
        value: Float [n, k, width].
        heads: Divides the width.
        mask: Added to the scores, float, broadcast to [n, heads, q, k].

    Returns:
        Float [n, q, width].
    """
    n, width = query.size(0), query.size(2)
    shape = [n, -1, heads, width // heads]
    mixed = functional.scaled_dot_product_attention(
        query.view(shape).transpose(1, 2),
        key.view(shape).transpose(1, 2),
        value.view(shape).transpose(1, 2),
        attn_mask=mask,
    )
    return mixed.transpose(1, 2).reshape(n, -1, width)
