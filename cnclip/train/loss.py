"""The contrastive loss of CLIP, where a batch may hold the same caption or picture twice.

Rows are of unit length; `own` rows are those of this process, `all` rows those of every process,
in the order of their ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """Which pictures and texts of a batch belong together.

    Attributes:
        pictures: int64 [n], equal for pictures of equal content.
        texts: int64 [n], equal for texts of equal words.
        described: int64 [n, k], keys of other texts that the data set gives each picture, filled up
            with the key of its own.
    """

    pictures: Tensor
    texts: Tensor
    described: Tensor


def matches(own: Pairs, everyone: Pairs, first: int) -> tuple[Tensor, Tensor]:
    """Which candidates are right for each query: for own pictures, and for own texts.

    A picture and a text belong together if they are a pair of the batch, if the pictures or the
    texts of two pairs are equal, or if the data set tells that they do.

    Args:
        own: The pairs of this process.
        everyone: The pairs of all processes.
        first: Where the own ones begin among them.

    Returns:
        bool [own, all] for pictures that look for texts, and for texts that look for pictures.
    """
    same = (own.pictures[:, None] == everyone.pictures) | (own.texts[:, None] == everyone.texts)
    index = torch.arange(len(own.texts), device=same.device)
    same[index, first + index] = True
    forth, back = same.clone(), same
    for column in own.described.unbind(1):
        forth |= column[:, None] == everyone.texts
    for column in everyone.described.unbind(1):
        back |= own.texts[:, None] == column
    return forth, back


def contrastive_loss(
    own_images: Tensor,
    own_texts: Tensor,
    all_images: Tensor,
    all_texts: Tensor,
    logit_scale: Tensor,
    right: tuple[Tensor, Tensor] | None,
    first: int = 0,
    duplicates: str = "positive",
) -> Tensor:
    """The mean of both directions' cross entropies (CLIP, arXiv:2103.00020, figure 3).

    Args:
        own_images: float32 [own, d].
        own_texts: float32 [own, d].
        all_images: float32 [all, d].
        all_texts: float32 [all, d].
        logit_scale: The natural logarithm of what cosines are multiplied by, 0-d.
        right: As of `matches`; not used for `'negative'`.
        first: Where the own rows begin among all.
        duplicates: What candidates are that belong to a query beside the one it was drawn with:
            `'positive'`, all that are right share the target equally, as in UniCL (Yang et al.
            2022, arXiv:2204.03610); `'mask'`, they are left out; `'negative'`, they are wrong, as
            in CLIP and cn_clip.

    Returns:
        The loss, 0-d.
    """
    scale = logit_scale.exp()
    target = first + torch.arange(len(own_images), device=own_images.device)
    losses = []
    for index, (queries, candidates) in enumerate(
        ((own_images, all_texts), (own_texts, all_images))
    ):
        logits = scale * queries @ candidates.T
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
) -> Tensor:
    """How far the batch's similarities are from a teacher's, whose rows may have another width.

    The cross entropy between the softmax of the teacher's logits and that of the student's, the
    mean of both directions: "interactive contrastive learning" has the student's rows among the
    teacher's, this is the plain form of CLIP-KD (Yang et al. 2023, arXiv:2307.12732), contrastive
    relational distillation.

    Args:
        images: Student's rows, float32 [n, d].
        texts: Student's rows, float32 [n, d].
        logit_scale: The student's, a logarithm, 0-d.
        teacher_images: float32 [n, e].
        teacher_texts: float32 [n, e].
        teacher_scale: The teacher's, a logarithm, 0-d.

    Returns:
        The loss, 0-d; the teacher's entropy is taken away, so that it is 0 where both agree.
    """
    student = logit_scale.exp() * images @ texts.T
    teacher = teacher_scale.exp() * teacher_images @ teacher_texts.T
    losses = [
        F.kl_div(
            F.log_softmax(ours, dim=1),
            F.log_softmax(theirs, dim=1),
            log_target=True,
            reduction="batchmean",
        )
        for ours, theirs in ((student, teacher), (student.T, teacher.T))
    ]
    return (losses[0] + losses[1]) / 2
