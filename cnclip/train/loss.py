"""The contrastive loss of CLIP, where a batch may hold the same caption or image twice.

Rows are of unit length, and those of all processes in the order of their ranks. A process asks for
its own rows, among those of all.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .batch import Pairs

ALL = slice(None)


def matches(own: Pairs, everyone: Pairs, first: int) -> tuple[Tensor, Tensor]:
    """Which candidates are right for each query: for own images, and for own texts.

    An image and a text belong together if they are a pair of the batch, if the images or the
    texts of two pairs are equal, or if the data set tells that they do.

    Args:
        own: The pairs of this process.
        everyone: The pairs of all processes.
        first: Where the own ones begin among them.

    Returns:
        bool [own, all] for images that look for texts, and for texts that look for images.
    """
    same = (own.images[:, None] == everyone.images) | (own.texts[:, None] == everyone.texts)
    index = torch.arange(len(own.texts), device=same.device)
    same[index, first + index] = True
    forth, back = same.clone(), same
    for column in own.described.unbind(1):
        forth |= column[:, None] == everyone.texts
    for column in everyone.described.unbind(1):
        back |= own.texts[:, None] == column
    return forth, back


def contrastive_loss(
    images: Tensor,
    texts: Tensor,
    logit_scale: Tensor,
    right: tuple[Tensor, Tensor] | None = None,
    own: slice = ALL,
    duplicates: str = "positive",
) -> Tensor:
    """The mean of both directions' cross entropies (CLIP, arXiv:2103.00020, figure 3).

    Args:
        images: Rows of all processes, float32 [n, d].
        texts: float32 [n, d].
        logit_scale: The natural logarithm of what cosines are multiplied by, 0-d.
        right: As of `matches`; not used for `'negative'`.
        own: The rows of this process, which are its queries.
        duplicates: What candidates are that belong to a query beside the one it was drawn with:
            `'positive'`, all that are right share the target equally, as in UniCL (Yang et al.
            2022, arXiv:2204.03610); `'mask'`, they are left out; `'negative'`, they are wrong, as
            in CLIP and cn_clip.

    Returns:
        The loss of the own queries, 0-d.
    """
    target = torch.arange(len(images), device=images.device)[own]
    losses = []
    for index, logits in enumerate(_logits(images, texts, logit_scale, own)):
        if duplicates == "negative" or right is None:
            losses.append(F.cross_entropy(logits, target))
        elif duplicates == "mask":
            others = right[index].clone()
            others.scatter_(1, target[:, None], False)
            losses.append(F.cross_entropy(logits.masked_fill(others, -torch.inf), target))
        else:
            shares = right[index].to(logits.dtype)
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
    """How far the batch's similarities are from a teacher's, whose rows may have another width.

    The Kullback-Leibler divergence of the softmax of the student's logits from that of the
    teacher's, the mean of both directions: contrastive relational distillation of CLIP-KD (Yang et
    al. 2023, arXiv:2307.12732).

    Args:
        images: The student's rows, of all processes, float32 [n, d].
        texts: float32 [n, d].
        logit_scale: The student's, a logarithm, 0-d.
        teacher_images: float32 [n, e].
        teacher_texts: float32 [n, e].
        teacher_scale: The teacher's, a logarithm, 0-d.
        own: The rows of this process, which are its queries.

    Returns:
        The loss, 0-d: 0 where both agree.
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
    """Of own images among all texts, and of own texts among all images: [own, n] each."""
    scale = logit_scale.exp()
    return scale * images[own] @ texts.T, scale * texts[own] @ images.T
