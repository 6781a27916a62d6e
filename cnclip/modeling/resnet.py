"""CLIP's ModifiedResNet: three stem convolutions, anti-aliased strides, attention pooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import VisionConfig
from .layers import BatchNorm2d, Conv2d, Linear, attention

EXPANSION = 4


class Bottleneck(nn.Module):
    """One residual block; a stride is an average pooling before the last convolution."""

    def __init__(self, inplanes: int, planes: int, stride: int) -> None:
        super().__init__()
        width = planes * EXPANSION
        self.conv1 = Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = BatchNorm2d(planes)
        self.conv2 = Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(planes)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = Conv2d(planes, width, 1, bias=False)
        self.bn3 = BatchNorm2d(width)
        # A shortcut of another shape is pooled and projected; checkpoints name the layers 0 and 1.
        self.shortcut_pool = nn.AvgPool2d(stride)
        projected = stride > 1 or inplanes != width
        self.downsample = nn.ModuleList(
            [Conv2d(inplanes, width, 1, bias=False), BatchNorm2d(width)] if projected else []
        )

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        """Make the layers ready."""
        self.conv1.prepare(precision)
        self.bn1.prepare(precision)
        self.conv2.prepare(precision)
        self.bn2.prepare(precision)
        self.conv3.prepare(precision)
        self.bn3.prepare(precision)
        for layer in self.downsample:
            layer.prepare(precision)  # type: ignore[operator]

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


class Stage(nn.ModuleList):
    """A stage's blocks in a row."""

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        """Make the blocks ready."""
        for block in self:
            block.prepare(precision)  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        """Apply every block."""
        for block in self:
            x = block(x)
        return x


class AttentionPool(nn.Module):
    """Attention of the mean over all positions, as the pooled vector."""

    def __init__(self, side: int, width: int, heads: int, embed_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding: Tensor = nn.Parameter(torch.empty(side**2 + 1, width))
        self.k_proj = Linear(width, width)
        self.q_proj = Linear(width, width)
        self.v_proj = Linear(width, width)
        self.c_proj = Linear(width, embed_dim)

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        """Make the projections ready."""
        self.positional_embedding = self.positional_embedding.float()
        self.k_proj.prepare(precision)
        self.q_proj.prepare(precision)
        self.v_proj.prepare(precision)
        self.c_proj.prepare("fp32")  # one row an image, and the last one

    def forward(self, x: Tensor) -> Tensor:
        """Float [n, width, side, side] to float [n, embed_dim]."""
        positions = x.flatten(2).transpose(1, 2)
        mean = positions.mean(dim=1, keepdim=True)
        items = torch.cat([mean, positions], dim=1) + self.positional_embedding
        query, rows = self.q_proj(items[:, 0]), items.flatten(0, 1)
        ones = torch.arange(items.size(0) + 1)
        pooled = attention(
            query, self.k_proj(rows), self.v_proj(rows), self.heads, ones, ones * items.size(1)
        )
        out: Tensor = self.c_proj(pooled)
        return out


class ModifiedResNet(nn.Module):
    """Pixels to one vector an image."""

    def __init__(self, config: VisionConfig, embed_dim: int) -> None:
        super().__init__()
        layers, width = config.layers, config.width
        assert not isinstance(layers, int)
        self.conv1 = Conv2d(3, width // 2, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn1 = BatchNorm2d(width // 2)
        self.conv2 = Conv2d(width // 2, width // 2, kernel_size=3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(width // 2)
        self.conv3 = Conv2d(width // 2, width, kernel_size=3, padding=1, bias=False)
        self.bn3 = BatchNorm2d(width)
        self.avgpool = nn.AvgPool2d(2)
        self.layer1 = _stage(width, width, layers[0], stride=1)
        self.layer2 = _stage(width * 4, width * 2, layers[1], stride=2)
        self.layer3 = _stage(width * 8, width * 4, layers[2], stride=2)
        self.layer4 = _stage(width * 16, width * 8, layers[3], stride=2)
        self.attnpool = AttentionPool(
            config.resolution // 32, config.feature_width, config.heads, embed_dim
        )

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        """Make the tower ready."""
        self.conv1.prepare(precision)
        self.bn1.prepare(precision)
        self.conv2.prepare(precision)
        self.bn2.prepare(precision)
        self.conv3.prepare(precision)
        self.bn3.prepare(precision)
        self.layer1.prepare(precision)
        self.layer2.prepare(precision)
        self.layer3.prepare(precision)
        self.layer4.prepare(precision)
        self.attnpool.prepare(precision)

    def forward(self, pixels: Tensor) -> Tensor:
        """Float [n, 3, r, r] to float [n, embed_dim]."""
        x = torch.relu(self.bn1(self.conv1(pixels)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = self.avgpool(torch.relu(self.bn3(self.conv3(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.attnpool(x)


def _stage(inplanes: int, planes: int, blocks: int, stride: int) -> Stage:
    first = Bottleneck(inplanes, planes, stride)
    rest = [Bottleneck(planes * EXPANSION, planes, stride=1) for _ in range(1, blocks)]
    return Stage([first, *rest])
