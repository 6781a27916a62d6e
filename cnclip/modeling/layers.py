"""The layers that both towers are built of.

Each is torch's own layer with a `prepare` that the C core calls once after loading an archive:
archives keep weights as the checkpoint had them, often float16, and `prepare` brings them to the
form that `precision` computes in, which replaces the original.

Rows of all items stand one after the other, float [rows, width], without padding; `starts`, int64
[items + 1] on the CPU, tells where each item begins. Linear layers and attention are operators of
the core (torch_shim.cpp); on weights that are not prepared these are torch's own, with gradients.

The `type: ignore` comments are for tensors that take the place of parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import _core

assert _core  # its import registers torch.ops.cnclip


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    first: int,
    last: int,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    activation: str = "",
    residual: Tensor | None = None,
) -> Tensor:
    """Columns `first` to `last` of activation(norm(x) weight^T + bias) + residual.

    Args:
        x: Float [rows, in].
        weight: Float [out, in], or prepared.
        bias: Float [out].
        first: First column.
        last: Behind the last column.
        norm_weight: Float [in], of a layer normalisation with an epsilon of 1e-5.
        norm_bias: Float [in], of the same.
        activation: `gelu`, `gelu_new`, `relu`, `swish`, `quick_gelu`, or nothing.
        residual: Float [rows, last - first].

    Returns:
        Float [rows, last - first]; bfloat16 where that is what the next kernel takes.
    """
    out: Tensor = torch.ops.cnclip.linear(
        x,
        weight,
        bias,
        first,
        last,
        norm_weight,
        norm_bias,
        1e-5,
        activation,
        residual,
    )
    return out


def pack(weight: Tensor, precision: str) -> Tensor:
    """A weight, float [out, in], in the form that `linear` computes `precision` with."""
    packed: Tensor = torch.ops.cnclip.pack_linear(weight, precision)
    return packed


def attention(
    query: Tensor, key: Tensor, value: Tensor, heads: int, query_starts: Tensor, key_starts: Tensor
) -> Tensor:
    """Multi-head scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762).

    Args:
        query: Float [queries, width].
        key: Float [keys, width].
        value: Float [keys, width].
        heads: Divides the width.
        query_starts: Where each item's queries begin.
        key_starts: Where each item's keys begin.

    Returns:
        Float [queries, width].
    """
    mixed: Tensor = torch.ops.cnclip.attention(query, key, value, heads, query_starts, key_starts)
    return mixed


def self_attention(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    heads: int,
    starts: Tensor,
    pooled: bool,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
) -> Tensor:
    """Attention of rows among their item's.

    Args:
        x: Float [rows, width].
        weight: Of query, key and value: float [3 width, width], or prepared.
        bias: Float [3 width].
        heads: Divides the width.
        starts: Where each item begins.
        pooled: Only each item's first row asks.
        norm_weight: Float [width], of a layer normalisation before.
        norm_bias: Float [width], of the same.

    Returns:
        Float [rows, width], or [items, width] if pooled.
    """
    width = x.size(1)
    if not pooled:
        all3 = linear(x, weight, bias, 0, 3 * width, norm_weight, norm_bias)
        return attention(
            all3[:, :width], all3[:, width : 2 * width], all3[:, 2 * width :], heads, starts, starts
        )
    query = linear(first_rows(x, starts), weight, bias, 0, width, norm_weight, norm_bias)
    both = linear(x, weight, bias, width, 3 * width, norm_weight, norm_bias)
    ones = torch.arange(starts.size(0))
    return attention(query, both[:, :width], both[:, width:], heads, ones, starts)


def first_rows(x: Tensor, starts: Tensor) -> Tensor:
    """Each item's first row."""
    return x.index_select(0, starts[:-1].to(x.device))


class Linear(nn.Linear):
    """torch.nn.Linear of rows, with what may stand around it."""

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        """Make the weights ready."""
        self.weight = pack(self.weight, precision)
        bias = self.bias  # TorchScript narrows the type of a local name only
        if bias is not None:
            self.bias = bias.float()  # type: ignore[assignment]

    def forward(
        self,
        input: Tensor,
        activation: str = "",
        residual: Tensor | None = None,
        norm_weight: Tensor | None = None,
        norm_bias: Tensor | None = None,
    ) -> Tensor:
        """Float [rows, in] to [rows, out]; see `linear`."""
        return linear(
            input,
            self.weight,
            self.bias,
            0,
            self.out_features,
            norm_weight,
            norm_bias,
            activation,
            residual,
        )


class Conv2d(nn.Conv2d):
    """torch.nn.Conv2d that can be made ready; it computes in float32."""

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        """Bring the weights to float32."""
        self.weight = self.weight.float()
        bias = self.bias  # TorchScript narrows the type of a local name only
        if bias is not None:
            self.bias = bias.float()


class BatchNorm2d(nn.BatchNorm2d):
    """torch.nn.BatchNorm2d that can be made ready."""

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
    """torch.nn.LayerNorm that can be made ready."""

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        """Bring the weights to float32."""
        self.weight = self.weight.float()  # type: ignore[assignment]
        self.bias = self.bias.float()  # type: ignore[assignment]
