"""The vision transformer of CLIP (Radford et al. 2021, arXiv:2103.00020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import VisionConfig
from .layers import Conv2d, LayerNorm, Linear, attention


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
        self.in_proj_weight = self.in_proj_weight.float()
        self.in_proj_bias = self.in_proj_bias.float()
        self.out_proj.prepare(precision)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the rows of each item, float [n, rows, width]."""
        mixed = nn.functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        query, key, value = mixed.chunk(3, dim=-1)
        return self.out_proj(attention(query, key, value, self.heads))


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

    def forward(self, x: Tensor) -> Tensor:
        """Transform each row by itself."""
        x = self.c_fc(x)
        return self.c_proj(x * torch.sigmoid(1.702 * x))


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

    def forward(self, x: Tensor) -> Tensor:
        """Apply attention and feed-forward, float [n, rows, width]."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


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

    def forward(self, x: Tensor) -> Tensor:
        """Apply every layer."""
        for block in self.resblocks:
            x = block(x)
        return x


class VisionTransformer(nn.Module):
    """Pixels to one vector a picture: patches, [CLS], layers, projection."""

    def __init__(self, config: VisionConfig, embed_dim: int) -> None:
        super().__init__()
        patch_size, layers, width = config.patch_size, config.layers, config.width
        assert patch_size is not None and isinstance(layers, int)
        rows = (config.resolution // patch_size) ** 2 + 1
        self.conv1 = Conv2d(3, width, kernel_size=patch_size, stride=patch_size, bias=False)
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
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        cls = self.class_embedding.expand(pixels.size(0), 1, -1)
        x = torch.cat([cls, patches], dim=1) + self.positional_embedding
        x = self.transformer(self.ln_pre(x))
        return self.ln_post(x[:, 0]) @ self.proj
