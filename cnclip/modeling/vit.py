"""The vision transformer of CLIP (Radford et al. 2021, arXiv:2103.00020)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .config import VisionConfig
from .layers import Stack, attention


class Attention(nn.Module):
    """Multi-head self-attention with query, key and value in one linear layer.

    Checkpoints store that layer's tensors as `in_proj_weight` and `in_proj_bias`, as
    torch.nn.MultiheadAttention does, and so does `state_dict`. It is a torch.nn.Linear here, so
    that tools for linear layers, such as peft, find it.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        self.register_state_dict_post_hook(_rename_stored)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_rename_loaded)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        """Float [n, rows, width] to the same shape."""
        query, key, value = self.in_proj(x).chunk(3, dim=-1)
        return self.out_proj(attention(query, key, value, self.heads))


def checkpoint_name(name: str) -> str:
    """The name of a parameter in checkpoints and in `state_dict`."""
    return name.replace(".in_proj.weight", ".in_proj_weight").replace(
        ".in_proj.bias", ".in_proj_bias"
    )


def _rename_stored(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name in [name for name in state if name.startswith(prefix)]:  # all, to keep their order
        state[checkpoint_name(name)] = state.pop(name)


def _rename_loaded(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for kind in ("weight", "bias"):
        if f"{prefix}in_proj_{kind}" in state:
            state[f"{prefix}in_proj.{kind}"] = state.pop(f"{prefix}in_proj_{kind}")


class FeedForward(nn.Module):
    """Two linear layers with QuickGELU, x * sigmoid(1.702 x), between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Float [n, rows, width] to the same shape."""
        hidden = self.c_fc(x)
        return self.c_proj(hidden * torch.sigmoid(1.702 * hidden))


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = FeedForward(width)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Float [n, rows, width] to the same shape."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Transformer(Stack):
    """The layers."""

    def __init__(self, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([Block(width, heads) for _ in range(layers)])

    def forward(self, x: Tensor) -> Tensor:
        """Float [n, rows, width] to the same shape."""
        return self.apply_layers(self.resblocks, x)


class VisionTransformer(nn.Module):
    """Pixels to one vector per image: patches and [CLS], layers, projection.

    Attributes:
        input_resolution: Pixels per side of the input.
        output_dim: Columns of the output.
        mask_ratio: The share of its patches that each image loses in training, chosen at random, as
            in FLIP (Li et al. 2023, arXiv:2212.00794).
    """

    mask_ratio = 0.0

    def __init__(self, config: VisionConfig, embed_dim: int) -> None:
        super().__init__()
        assert isinstance(config.layers, int) and config.patch_size is not None
        self.input_resolution, self.output_dim = config.resolution, embed_dim
        width = config.width
        rows = (config.resolution // config.patch_size) ** 2 + 1
        self.conv1 = nn.Conv2d(3, width, config.patch_size, config.patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(rows, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, config.layers, config.heads)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, embed_dim))

    def forward(self, pixels: Tensor, mask_ratio: float = 0.0) -> Tensor:
        """Float [n, 3, r, r] to float [n, embed_dim].

        `mask_ratio` is used outside of training too. In training, 0 means the attribute's value.
        """
        x = self.conv1(pixels).flatten(2).transpose(1, 2) + self.positional_embedding[1:]
        if self.training and mask_ratio == 0:
            mask_ratio = self.mask_ratio
        if mask_ratio > 0:
            x = _random_rows(x, mask_ratio)
        cls = self.class_embedding + self.positional_embedding[0]
        x = torch.cat([cls.to(x.dtype).expand(x.size(0), 1, -1), x], dim=1)
        x = self.transformer(self.ln_pre(x))
        return self.ln_post(x[:, 0]) @ self.proj

    def initialize(self) -> None:
        """Draw random weights as CLIP does."""
        width = self.conv1.out_channels
        scale = width**-0.5
        output_scale = scale * (2 * len(self.transformer.resblocks)) ** -0.5
        for parameter in (self.class_embedding, self.positional_embedding, self.proj):
            nn.init.normal_(parameter, std=scale)
        for block in self.transformer.resblocks:
            assert isinstance(block, Block)
            for linear, std in (
                (block.attn.in_proj, scale),
                (block.attn.out_proj, output_scale),
                (block.mlp.c_fc, (2 * width) ** -0.5),
                (block.mlp.c_proj, output_scale),
            ):
                nn.init.normal_(linear.weight, std=std)
                nn.init.zeros_(linear.bias)


def _random_rows(x: Tensor, left_out: float) -> Tensor:
    """A random choice of each item's rows, in their order: [n, kept, width]."""
    kept = max(1, round(x.size(1) * (1 - left_out)))
    chosen = torch.rand(x.shape[:2], device=x.device).argsort(dim=1)[:, :kept].sort(dim=1).values
    return x.gather(1, chosen[..., None].expand(-1, -1, x.size(2)))
