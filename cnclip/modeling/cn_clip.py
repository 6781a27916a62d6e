"""The towers with the interface of class `CLIP` of cn_clip and ModelScope."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from .clip import ClipTowers
from .config import ClipConfig
from .vit import VisionTransformer

# The dropout of BERT in cn_clip's configurations, after the embeddings and each output layer.
TEXT_DROPOUT = 0.1
# Texts of similar length that go through the text tower together.
_TEXTS_AT_ONCE = 32


class CLIP(ClipTowers):
    """Both towers as cn_clip's class: features keep the length with which they leave the towers.

    Parameters have the names of cn_clip's checkpoints in `state_dict`. A model whose weights are
    float16 or bfloat16 computes its linear layers in that type, and norms in float32.

    Attributes:
        tokenizer: What the caller sets; cn_clip's model has its tokenizer here.
    """

    tokenizer: Any = None

    def __init__(self, config: ClipConfig, text_dropout: float = TEXT_DROPOUT) -> None:
        super().__init__(config, text_dropout)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the first convolution's weight, to which images are converted."""
        return self.visual.conv1.weight.dtype

    def encode_image(self, image: Tensor, mask_ratio: float = 0) -> Tensor:
        """Features of images.

        Args:
            image: Normalized pixels, float [n, 3, r, r].
            mask_ratio: The share of its patches that each image loses, chosen at random; a ResNet
                ignores it.

        Returns:
            float [n, embed_dim], of the model's type.
        """
        pixels = image.to(self.dtype)
        with self._autocast():
            if mask_ratio and isinstance(self.visual, VisionTransformer):
                masked: Tensor = self.visual(pixels, mask_ratio)
                return masked
            return self.image_features(pixels)

    def encode_text(self, text: Tensor) -> Tensor:
        """Features of texts.

        Args:
            text: Token ids, int64 [n, l]. Columns in which all texts are padded cost nothing.

        Returns:
            float [n, embed_dim], of the model's type.
        """
        with self._autocast():
            if torch._C._get_tracing_state() is not None or torch.compiler.is_compiling():
                return self.text_features(text)  # a traced graph must not depend on the values
            return self._short_text_features(text)

    def forward(
        self, image: Tensor | None, text: Tensor | None, mask_ratio: float = 0
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """Unit rows of images, unit rows of texts, and the factor of their similarities.

        With `None` for one of them, the features of the other as its `encode_*` returns them.
        """
        if image is None:
            if text is None:
                raise TypeError("expected images, texts or both, got None for both")
            return self.encode_text(text)
        if text is None:
            return self.encode_image(image)
        images, texts = self.encode_image(image, mask_ratio), self.encode_text(text)
        return unit_rows(images), unit_rows(texts), self.logit_scale.exp()

    def get_similarity(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine similarities times `logit_scale.exp()`, as logits of a softmax.

        Args:
            image: As for `encode_image`.
            text: As for `encode_text`.

        Returns:
            float [images, texts], and its transpose.
        """
        images, texts = unit_rows(self.encode_image(image)), unit_rows(self.encode_text(text))
        per_image = self.logit_scale.exp() * images @ texts.t()
        return per_image, per_image.t()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of keeping them, or keep them."""
        self.recompute_activations(enable)

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        """Weights in 16 bits are mixed with float32 ones: autocast converts between them."""
        dtype = self.dtype
        if dtype not in (torch.float16, torch.bfloat16):
            return contextlib.nullcontext()
        return torch.autocast(self.text_projection.device.type, dtype)

    def _short_text_features(self, ids: Tensor) -> Tensor:
        """`text_features` without the columns in which all texts are padded.

        Without gradients on a CPU, texts of similar length go through the tower together.
        """
        if ids.size(0) == 0:
            return self.text_features(ids)
        columns = torch.arange(1, ids.size(1) + 1, device=ids.device)
        lengths = (ids.ne(self.config.pad_id) * columns).amax(1).clamp(min=1)
        if ids.is_cuda or torch.is_grad_enabled() or ids.size(0) <= _TEXTS_AT_ONCE:
            return self.text_features(ids[:, : int(lengths.max())])
        order = lengths.argsort()
        parts = [
            self.text_features(ids[part, : int(lengths[part[-1]])])
            for part in torch.split(order, _TEXTS_AT_ONCE)
        ]
        features = torch.cat(parts)
        return torch.empty_like(features).index_copy_(0, order, features)


def unit_rows(rows: Tensor) -> Tensor:
    """Rows of unit length, in the type of the rows."""
    return rows / rows.norm(dim=-1, keepdim=True)
