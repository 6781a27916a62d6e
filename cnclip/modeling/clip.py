"""Chinese-CLIP (Yang et al. 2022, arXiv:2211.01335): both towers in one embedding space."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .bert import Bert
from .config import ClipConfig
from .layers import Stack
from .resnet import ModifiedResNet
from .vit import VisionTransformer, checkpoint_name

MAX_LOGIT_SCALE = math.log(100.0)
INITIAL_LOGIT_SCALE = math.log(1 / 0.07)


class ClipTowers(nn.Module):
    """Both towers with their projections, and the logit scale.

    Attributes:
        config: Their sizes.
    """

    def __init__(self, config: ClipConfig, text_dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        tower = VisionTransformer if isinstance(config.vision.layers, int) else ModifiedResNet
        self.visual = tower(config.vision, config.embed_dim)
        self.bert = Bert(config.text, text_dropout)
        self.text_projection = nn.Parameter(torch.empty(config.text.width, config.embed_dim))
        self.logit_scale = nn.Parameter(torch.empty([]))

    def image_features(self, pixels: Tensor) -> Tensor:
        """Normalised pixels, float [n, 3, r, r], to float [n, embed_dim] of any length."""
        features: Tensor = self.visual(pixels)
        return features

    def text_features(self, ids: Tensor) -> Tensor:
        """Token ids, int64 [n, l], to float [n, embed_dim] of any length.

        Padding is masked; the first column never is.
        """
        mask = ids.ne(self.config.pad_id)
        mask[:, 0] = True
        return self.bert(ids, mask) @ self.text_projection

    def initialize(self) -> None:
        """Draw random weights, for training from scratch."""
        self.visual.initialize()
        self.bert.initialize()
        nn.init.normal_(self.text_projection, std=self.config.text.width**-0.5)
        nn.init.constant_(self.logit_scale, INITIAL_LOGIT_SCALE)

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Copy the weights of a checkpoint that `read_checkpoint` returned.

        Only BatchNorm's counts of batches may be missing: embedding does not use them.
        """
        missing, unknown = self.load_state_dict(weights, strict=False)
        assert not unknown and all(name.endswith("num_batches_tracked") for name in missing)

    def recompute_activations(self, enabled: bool = True) -> None:
        """Keep no layer's activations for the backward pass (gradient checkpointing)."""
        for module in self.modules():
            if isinstance(module, Stack):
                module.recompute = enabled


class ChineseClip(ClipTowers):
    """Images and texts to rows of unit length in one space."""

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Normalised pixels, float [n, 3, r, r], to unit rows, float32 [n, embed_dim]."""
        return _unit(self.image_features(pixels))

    def encode_text(self, ids: Tensor) -> Tensor:
        """Token ids, int64 [n, l], to unit rows, float32 [n, embed_dim].

        Padding is masked; the first column never is.
        """
        return _unit(self.text_features(ids))

    def forward(self, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of images, rows of texts, and the logit scale."""
        return self.encode_image(pixels), self.encode_text(ids), self.logit_scale.view(())


def _unit(rows: Tensor) -> Tensor:
    """Rows of unit length, in float32 where autocast made them narrower."""
    wide = rows.float() if rows.dtype in (torch.bfloat16, torch.float16) else rows
    return F.normalize(wide, dim=-1)


def half_precision_names(model: ClipTowers) -> set[str]:
    """Names of the tensors that ModelScope rounds to float16 before it computes in float32.

    Linear and convolution layers, the two final projections and all of BERT; not the vision tower's
    norms, class and position embeddings, nor the logit scale.
    """
    names = {"text_projection", "visual.proj"}
    for prefix, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            names |= {
                checkpoint_name(f"{prefix}.{name}")
                for name, _ in module.named_parameters(recurse=False)
            }
    names |= {name for name in model.state_dict() if name.startswith("bert.")}
    return names & set(model.state_dict())
