"""The contrastive loss of CLIP for batches that may contain the same caption or image twice.

Rows have unit length; the rows of all processes are in the order of their ranks. Each process
computes the loss of its rows among those of all processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

ALL = slice(None)


@dataclass(frozen=True)
class Pairs:
    """Which images and texts of a batch belong together.

    Attributes:
        images: int64 [n], equal for images of equal content.
        texts: int64 [n], equal for equal texts.
        described: int64 [n, k], keys of all texts that the data set has for each image, padded
            with the key of the pair's own text.
    """

    images: Tensor
    texts: Tensor
    described: Tensor

    @staticmethod
    def cat(parts: Sequence[Pairs]) -> Pairs:
        """Concatenate the pairs of several parts."""
        width = max(part.described.shape[1] for part in parts)
        return Pairs(
            torch.cat([part.images for part in parts]),
            torch.cat([part.texts for part in parts]),
            torch.cat([part.padded(width).described for part in parts]),
        )

    def padded(self, width: int) -> Pairs:
        """The same pairs with `described` of shape [n, width]."""
        padding = self.texts[:, None].expand(-1, width - self.described.shape[1])
        return Pairs(self.images, self.texts, torch.cat([self.described, padding], dim=1))


def matches(own: Pairs, everyone: Pairs, first: int) -> tuple[Tensor, Tensor]:
    """Which candidates match each query: for own images, and for own texts.

    An image and a text match if they are a pair of the batch, if the images or the texts of two
    pairs are equal, or if they are a pair of the data set.

    Args:
        own: The pairs of this process.
        everyone: The pairs of all processes.
        first: The index of the first own pair among those of all processes.

    Returns:
        bool [own, all] with images as queries, and bool [own, all] with texts as queries.
    """
    same = (own.images[:, None] == everyone.images) | (own.texts[:, None] == everyone.texts)
    index = torch.arange(len(own.texts), device=same.device)
    same[index, first + index] = True
    by_image, by_text = same.clone(), same
    for column in own.described.unbind(1):
        by_image |= column[:, None] == everyone.texts
    for column in everyone.described.unbind(1):
        by_text |= own.texts[:, None] == column
    return by_image, by_text


def contrastive_loss(
    images: Tensor,
    texts: Tensor,
    logit_scale: Tensor,
    matching: tuple[Tensor, Tensor] | None = None,
    own: slice = ALL,
    duplicates: str = "positive",
) -> Tensor:
    """The mean cross entropy of both directions (CLIP, arXiv:2103.00020, figure 3).

    Args:
        images: Rows of all processes, float32 [n, d].
        texts: float32 [n, d].
        logit_scale: The natural logarithm of the factor by which cosines are multiplied, 0-d.
        matching: The result of `matches`; not used for `'negative'`.
        own: The rows of this process, which are its queries.
        duplicates: How to treat further candidates that match a query. `'positive'`: all matching
            candidates share the target equally, as in UniCL (Yang et al. 2022, arXiv:2204.03610).
            `'mask'`: they are left out. `'negative'`: they are wrong, as in CLIP and cn_clip.

    Returns:
        The loss of the own queries, 0-d.
    """
    target = torch.arange(len(images), device=images.device)[own]
    losses = []
    for index, logits in enumerate(_logits(images, texts, logit_scale, own)):
        if duplicates == "negative" or matching is None:
            losses.append(F.cross_entropy(logits, target))
        elif duplicates == "mask":
            others = matching[index].clone()
            others.scatter_(1, target[:, None], False)
            losses.append(F.cross_entropy(logits.masked_fill(others, -torch.inf), target))
        else:
            shares = matching[index].to(logits.dtype)
            shares = shares / shares.sum(1, keepdim=True)
            losses.append(F.cross_entropy(logits, shares))
    return (losses[0] + losses[1]) / 2


def distillation_loss(
    images: Tensor,
    texts: Tensor,
    logit_scale: Tensor,
    teacher_images: Tensor,
    teacher_texts: Tensor,
    teacher_scale: Tensor,
    own: slice = ALL,
) -> Tensor:
    """The divergence of a batch's similarities from a teacher's, whose rows may have another width.

    It is the Kullback-Leibler divergence between the softmax of the teacher's logits and that of
    the student's, averaged over both directions: contrastive relational distillation of CLIP-KD
    (Yang et al. 2023, arXiv:2307.12732).

    Args:
        images: The student's rows of all processes, float32 [n, d].
        texts: float32 [n, d].
        logit_scale: The student's, a natural logarithm, 0-d.
        teacher_images: float32 [n, e].
        teacher_texts: float32 [n, e].
        teacher_scale: The teacher's, a natural logarithm, 0-d.
        own: The rows of this process, which are its queries.

    Returns:
        The loss, 0-d: 0 if both have the same similarities.
    """
    losses = [
        F.kl_div(
            F.log_softmax(ours, dim=1),
            F.log_softmax(theirs, dim=1),
            log_target=True,
            reduction="batchmean",
        )
        for ours, theirs in zip(
            _logits(images, texts, logit_scale, own),
            _logits(teacher_images, teacher_texts, teacher_scale, own),
            strict=True,
        )
    ]
    return (losses[0] + losses[1]) / 2


def _logits(
    images: Tensor, texts: Tensor, logit_scale: Tensor, own: slice
) -> tuple[Tensor, Tensor]:
    """Of own images with all texts, and of own texts with all images: [own, n] each."""
    scale = logit_scale.exp()
    return scale * images[own] @ texts.T, scale * texts[own] @ images.T
