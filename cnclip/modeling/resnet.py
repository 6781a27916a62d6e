"""CLIP's ModifiedResNet: three stem convolutions, anti-aliased strides, attention pooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import VisionConfig
from .layers import attention

EXPANSION = 4


class Bottleneck(nn.Module):
    """One residual block; a stride is an average pooling before the last convolution."""

    def __init__(self, inplanes: int, planes: int, stride: int) -> None:
        super().__init__()
        width = planes * EXPANSION
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(planes, width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        # A shortcut of another shape is pooled and projected; checkpoints name the layers 0 and 1.
        self.shortcut_pool = nn.AvgPool2d(stride)
        projected = stride > 1 or inplanes != width
        self.downsample = nn.ModuleList(
            [nn.Conv2d(inplanes, width, 1, bias=False), nn.BatchNorm2d(width)] if projected else []
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float [n, inplanes, h, w] to float [n, 4 planes, h / stride, w / stride]."""
        out = torch.relu(self.bn1(self.conv1(x)))
        out = torch.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(self.avgpool(out)))
        if len(self.downsample) > 0:
            x = self.shortcut_pool(x)
            for layer in self.downsample:
                x = layer(x)
        return torch.relu(out + x)


class AttentionPool(nn.Module):
    """Attention of the mean over all positions to the positions and itself."""

    def __init__(self, side: int, width: int, heads: int, embed_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.empty(side**2 + 1, width))
        self.k_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Float [n, width, side, side] to float [n, embed_dim]."""
        positions = x.flatten(2).transpose(1, 2)
        rows = torch.cat([positions.mean(dim=1, keepdim=True), positions], dim=1)
        rows = rows + self.positional_embedding
        pooled = attention(
            self.q_proj(rows[:, :1]), self.k_proj(rows), self.v_proj(rows), self.heads
        )
        return self.c_proj(pooled[:, 0])


class ModifiedResNet(nn.Module):
    """Pixels to one vector per image.

    Attributes:
        input_resolution: Pixels per side of the input.
        output_dim: Columns of the output.
    """

    def __init__(self, config: VisionConfig, embed_dim: int) -> None:
        super().__init__()
        self.input_resolution, self.output_dim = config.resolution, embed_dim
        layers, width = config.layers, config.width
        assert not isinstance(layers, int)
        self.conv1 = nn.Conv2d(3, width // 2, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, kernel_size=3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.avgpool = nn.AvgPool2d(2)
        self.layer1 = _stage(width, width, layers[0], stride=1)
        self.layer2 = _stage(width * 4, width * 2, layers[1], stride=2)
        self.layer3 = _stage(width * 8, width * 4, layers[2], stride=2)
        self.layer4 = _stage(width * 16, width * 8, layers[3], stride=2)
        self.attnpool: nn.Module = AttentionPool(
            config.resolution // 32, config.feature_width, config.heads, embed_dim
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Float [n, 3, r, r] to float [n, embed_dim]."""
        x = torch.relu(self.bn1(self.conv1(pixels)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = self.avgpool(torch.relu(self.bn3(self.conv3(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.attnpool(x)

    def initialize(self) -> None:
        """Draw random weights as CLIP does."""
        pool = self.attnpool
        assert isinstance(pool, AttentionPool)
        width = pool.q_proj.in_features
        nn.init.normal_(pool.positional_embedding, std=width**-0.5)
        for linear in (pool.q_proj, pool.k_proj, pool.v_proj, pool.c_proj):
            nn.init.normal_(linear.weight, std=width**-0.5)
            nn.init.zeros_(linear.bias)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                assert isinstance(block, Bottleneck)
                nn.init.zeros_(block.bn3.weight)


def _stage(inplanes: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(inplanes, planes, stride)
    rest = [Bottleneck(planes * EXPANSION, planes, stride=1) for _ in range(1, blocks)]
    return nn.Sequential(first, *rest)
