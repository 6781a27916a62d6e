"""The vision transformer of CLIP (Radford et al. 2021, arXiv:2103.00020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import VisionConfig
from .layers import Conv2d, LayerNorm, Linear, first_rows, linear, pack, self_attention


class SelfAttention(nn.Module):
    """Multi-head self-attention with query, key and value in one matrix."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight: Tensor = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias: Tensor = nn.Parameter(torch.empty(3 * width))
        self.out_proj = Linear(width, width)

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        """Make the projections ready."""
        self.in_proj_weight = pack(self.in_proj_weight, precision)
        self.in_proj_bias = self.in_proj_bias.float()
        self.out_proj.prepare(precision)

    def forward(
        self, x: Tensor, starts: Tensor, pooled: bool, norm_weight: Tensor, norm_bias: Tensor
    ) -> Tensor:
        """Mix the normalised rows of each item; its output projection is the block's to call."""
        return self_attention(
            x,
            self.in_proj_weight,
            self.in_proj_bias,
            self.heads,
            starts,
            pooled,
            norm_weight,
            norm_bias,
        )


class FeedForward(nn.Module):
    """Two linear layers with QuickGELU, x * sigmoid(1.702 x), between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = Linear(width, 4 * width)
        self.c_proj = Linear(4 * width, width)

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        """Make the layers ready."""
        self.c_fc.prepare(precision)
        self.c_proj.prepare(precision)

    def forward(self, x: Tensor, norm_weight: Tensor, norm_bias: Tensor) -> Tensor:
        """Add to each row what becomes of it when it is normalised and transformed."""
        hidden = self.c_fc(x, "quick_gelu", None, norm_weight, norm_bias)
        out: Tensor = self.c_proj(hidden, residual=x)
        return out


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = SelfAttention(width, heads)
        self.ln_1 = LayerNorm(width)
        self.mlp = FeedForward(width)
        self.ln_2 = LayerNorm(width)

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        """Make the layers ready."""
        self.attn.prepare(precision)
        self.ln_1.prepare(precision)
        self.mlp.prepare(precision)
        self.ln_2.prepare(precision)

    def forward(self, x: Tensor, starts: Tensor, pooled: bool) -> Tensor:
        """Float [rows, width] to the same, or to each item's first row if pooled."""
        mixed = self.attn(x, starts, pooled, self.ln_1.weight, self.ln_1.bias)
        x = self.attn.out_proj(mixed, residual=first_rows(x, starts) if pooled else x)
        out: Tensor = self.mlp(x, self.ln_2.weight, self.ln_2.bias)
        return out


class Transformer(nn.Module):
    """The stack of layers, which exists as a module for its name in checkpoints."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([Block(width, heads) for _ in range(layers)])

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        """Make the layers ready."""
        for block in self.resblocks:
            block.prepare(precision)  # type: ignore[operator]

    def forward(self, x: Tensor, starts: Tensor) -> Tensor:
        """Float [rows, width] to [items, width]: every layer, the last for first rows only."""
        for i, block in enumerate(self.resblocks):
            x = block(x, starts, i + 1 == len(self.resblocks))
        return x


class PatchProjection(Conv2d):
    """A convolution whose stride is its kernel: a linear layer of patches."""

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        """Make the weights ready."""
        self.weight = pack(self.weight.flatten(1), precision)

    def forward(self, input: Tensor) -> Tensor:
        """Float [n, 3, r, r] to [n, patches, width]."""
        size = self.kernel_size[0]
        patches = input.unfold(2, size, size).unfold(3, size, size).permute(0, 2, 3, 1, 4, 5)
        rows = patches.flatten(3).flatten(0, 2)
        # As in the checkpoint, of four dimensions, until it is prepared.
        weight = self.weight.flatten(1) if self.weight.dim() == 4 else self.weight
        return linear(rows, weight, None, 0, self.out_channels).view(
            input.size(0), -1, self.out_channels
        )


class VisionTransformer(nn.Module):
    """Pixels to one vector an image: patches, [CLS], layers, projection."""

    def __init__(self, config: VisionConfig, embed_dim: int) -> None:
        super().__init__()
        patch_size, layers, width = config.patch_size, config.layers, config.width
        assert patch_size is not None and isinstance(layers, int)
        rows = (config.resolution // patch_size) ** 2 + 1
        self.conv1 = PatchProjection(3, width, patch_size, stride=patch_size, bias=False)
        self.class_embedding: Tensor = nn.Parameter(torch.empty(width))
        self.positional_embedding: Tensor = nn.Parameter(torch.empty(rows, width))
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(width, layers, config.heads)
        self.ln_post = LayerNorm(width)
        self.proj: Tensor = nn.Parameter(torch.empty(width, embed_dim))

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        """Make the tower ready."""
        self.conv1.prepare(precision)
        self.class_embedding = self.class_embedding.float()
        self.positional_embedding = self.positional_embedding.float()
        self.ln_pre.prepare(precision)
        self.transformer.prepare(precision)
        self.ln_post.prepare(precision)
        self.proj = self.proj.float()

    def forward(self, pixels: Tensor) -> Tensor:
        """Float [n, 3, r, r] to float [n, embed_dim]."""
        n = pixels.size(0)
        cls = self.class_embedding.expand(n, 1, -1)
        x = torch.cat([cls, self.conv1(pixels).to(cls.dtype)], dim=1) + self.positional_embedding
        starts = torch.arange(n + 1) * x.size(1)
        x = self.transformer(self.ln_pre(x).flatten(0, 1), starts)
        return self.ln_post(x) @ self.proj
