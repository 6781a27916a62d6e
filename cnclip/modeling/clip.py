"""Chinese-CLIP (Yang et al. 2022, arXiv:2211.01335): both towers and what joins them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .bert import Bert
from .config import ClipConfig
from .layers import Conv2d, Linear
from .resnet import ModifiedResNet
from .vit import SelfAttention, VisionTransformer


class ChineseClip(nn.Module):
    """Images and texts to rows of unit length in one space."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.pad_id = config.pad_id
        tower = VisionTransformer if isinstance(config.vision.layers, int) else ModifiedResNet
        self.visual = tower(config.vision, config.embed_dim)
        self.bert = Bert(config.text)
        self.text_projection: Tensor = nn.Parameter(
            torch.empty(config.text.width, config.embed_dim)
        )
        self.logit_scale = nn.Parameter(torch.empty([]))

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        """Make the model ready to compute in `precision`; called once, before the first run."""
        self.visual.prepare(precision)
        self.bert.prepare(precision)
        self.text_projection = self.text_projection.float()

    @torch.jit.export
    def encode_image(self, pixels: Tensor) -> Tensor:
        """Normalised pixels, float [n, 3, r, r], to unit rows, float [n, embed_dim]."""
        x = self.visual(pixels)
        return x / x.norm(p=2, dim=-1, keepdim=True)

    @torch.jit.export
    def encode_text(self, ids: Tensor) -> Tensor:
        """Token ids, int64 [n, l], to unit rows, float [n, embed_dim].

        Columns of padding are left out; the first column counts, whatever it holds.
        """
        attended = ids.ne(self.pad_id)
        attended[:, 0] = True
        x = self.bert(ids, attended) @ self.text_projection
        return x / x.norm(p=2, dim=-1, keepdim=True)


def half_precision_names(model: ChineseClip) -> set[str]:
    """Names of the tensors that ModelScope rounds to float16 before it computes in float32.

    Linear and convolution layers, attention projections, the two final projections and all of BERT;
    not the vision tower's norms, class and position embeddings, nor the logit scale.
    """
    names = {"text_projection", "visual.proj"}
    for prefix, module in model.named_modules():
        if isinstance(module, Linear | Conv2d | SelfAttention):
            names |= {f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False)}
    names |= {name for name in model.state_dict() if name.startswith("bert.")}
    return names & set(model.state_dict())
