"""The gradient of one batch, which may be larger than what fits through the towers at once.

As in GradCache (Gao et al. 2021, arXiv:2101.06983): the loss needs all rows of the batch, the
towers only their own items. The rows of every part are computed first; the loss's gradient by each
row then goes back through the towers, a part at a time. The answer is the gradient of the whole
batch, exactly, whatever the number of parts and processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .batch import Pairs, Part
from .distributed import World
from .loss import contrastive_loss, distillation_loss, matches

Rows = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Teacher:
    """A model whose similarities the student is to have.

    Attributes:
        rows: Rows of images and of texts, and the logit scale, without gradients.
        weight: Of its loss beside the contrastive one.
    """

    rows: Callable[[Part], Rows]
    weight: float


class Stepper:
    """Computes gradients of batches."""

    def __init__(
        self,
        model: nn.Module,
        world: World,
        autocast: Callable[[], contextlib.AbstractContextManager[None]],
        duplicates: str = "positive",
        teacher: Teacher | None = None,
    ) -> None:
        """Take the model.

        Args:
            model: A `TrainableClip`, perhaps compiled or in DistributedDataParallel.
            world: The processes that share a batch.
            autocast: Around each run of the towers.
            duplicates: See `contrastive_loss`.
            teacher: For distillation.
        """
        self._model = model
        self._world = world
        self._autocast = autocast
        self._duplicates = duplicates
        self._teacher = teacher

    def gradients(self, parts: list[Part], grow: float = 1.0) -> Tensor:
        """Add the gradient of a batch's loss to that of the parameters.

        Args:
            parts: This process's pairs of the batch, each part small enough for the towers.
            grow: What the loss is multiplied by before the gradient is taken (float16).

        Returns:
            The loss of the whole batch, 0-d float32, the same in each process.
        """
        if len(parts) == 1:
            with self._autocast():
                kept = self._model(parts[0].pixels, parts[0].ids)
            rows: list[Rows] = [_cut(kept)]
            states: list[list[Tensor]] = []
        else:
            rows, states = self._rows_of(parts)
        images, texts = (torch.cat([row[i] for row in rows]).requires_grad_() for i in range(2))
        scale = rows[0][2].requires_grad_()
        loss, by_image, by_text, by_scale = self._loss(parts, images, texts, scale, grow)
        start = 0
        for index, part in enumerate(parts):
            last = index + 1 == len(parts)
            if len(parts) > 1:
                with _random_state(states[index], part.pixels.device), self._unshared(not last):
                    with self._autocast():
                        kept = self._model(part.pixels, part.ids)
                    self._backward(kept, by_image, by_text, by_scale, start, last)
            else:
                self._backward(kept, by_image, by_text, by_scale, start, last)
            start += len(part.pixels)
        return loss

    def _rows_of(self, parts: list[Part]) -> tuple[list[Rows], list[list[Tensor]]]:
        """Rows of each part, without gradients, and the random state before each."""
        rows, states = [], []
        inner = getattr(self._model, "module", self._model)
        with torch.no_grad(), _unmoved_statistics(inner):
            for part in parts:
                states.append(_get_random_state(part.pixels.device))
                with self._autocast():
                    rows.append(_cut(inner(part.pixels, part.ids)))
        return rows, states

    def _loss(
        self, parts: list[Part], images: Tensor, texts: Tensor, scale: Tensor, grow: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The loss, and its gradient by this process's rows and the scale."""
        world = self._world
        all_images = world.gather(images.detach()).requires_grad_()
        all_texts = world.gather(texts.detach()).requires_grad_()
        first = world.rank * len(images)
        own = slice(first, first + len(images))
        right = None
        if self._duplicates != "negative":
            mine = _joined([part.pairs for part in parts])
            right = matches(*_gathered(mine, world), first)
        loss = contrastive_loss(all_images, all_texts, scale, right, own, self._duplicates)
        if self._teacher is not None:
            theirs = [self._teacher.rows(part) for part in parts]
            loss = loss + self._teacher.weight * distillation_loss(
                all_images,
                all_texts,
                scale,
                world.gather(torch.cat([rows[0] for rows in theirs])),
                world.gather(torch.cat([rows[1] for rows in theirs])),
                theirs[0][2],
                own,
            )
        by_image, by_text, by_scale = torch.autograd.grad(
            loss * grow, [all_images, all_texts, scale]
        )
        # Every process's loss depends on these rows; DistributedDataParallel takes means.
        by_image, by_text = world.sum(by_image), world.sum(by_text)
        mean = world.sum(loss.detach().clone()) / world.size
        return mean, by_image[own], by_text[own], by_scale

    def _backward(
        self,
        kept: Rows,
        by_image: Tensor,
        by_text: Tensor,
        by_scale: Tensor,
        start: int,
        last: bool,
    ) -> None:
        end = start + len(kept[0])
        # The scale's gradient is that of the whole batch: it counts once.
        pairs = zip(
            kept,
            (by_image[start:end], by_text[start:end], by_scale if last else by_scale * 0),
            strict=True,
        )
        with_gradient = [(row, gradient) for row, gradient in pairs if row.requires_grad]
        torch.autograd.backward(
            [row for row, _ in with_gradient], [gradient for _, gradient in with_gradient]
        )

    def _unshared(self, wanted: bool) -> contextlib.AbstractContextManager[None]:
        """Processes exchange gradients once a batch, with the last part's."""
        if wanted and isinstance(self._model, nn.parallel.DistributedDataParallel):
            context: contextlib.AbstractContextManager[None] = self._model.no_sync()
            return context
        return contextlib.nullcontext()


def _cut(rows: Rows) -> Rows:
    images, texts, scale = rows
    return images.detach(), texts.detach(), scale.detach().clone()


def _joined(pairs: list[Pairs]) -> Pairs:
    width = max(some.described.shape[1] for some in pairs)
    return Pairs(
        torch.cat([some.images for some in pairs]),
        torch.cat([some.texts for some in pairs]),
        torch.cat([_widened(some, width) for some in pairs]),
    )


def _gathered(own: Pairs, world: World) -> tuple[Pairs, Pairs]:
    """The pairs of this process and those of all."""
    wide = _widened(own, world.largest(own.described.shape[1]))
    own = Pairs(own.images, own.texts, wide)
    everyone = (world.gather(keys) for keys in (own.images, own.texts, own.described))
    return own, Pairs(*everyone)


def _widened(pairs: Pairs, width: int) -> Tensor:
    missing = width - pairs.described.shape[1]
    return torch.cat([pairs.described, pairs.texts[:, None].expand(-1, missing)], dim=1)


@contextlib.contextmanager
def _unmoved_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norms use the batch's statistics, and do not remember them: a batch counts once."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    counts = [None if count is None else count.clone() for _, count in before]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, (momentum, tracked), count in zip(norms, before, counts, strict=True):
            norm.momentum = momentum
            if tracked is not None and count is not None:
                tracked.copy_(count)


def _get_random_state(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


@contextlib.contextmanager
def _random_state(states: list[Tensor], device: torch.device) -> Iterator[None]:
    """Draw the numbers (dropout, patches left out) that were drawn from these states."""
    after = _get_random_state(device)
    _set_random_state(states, device)
    try:
        yield
    finally:
        _set_random_state(after, device)


def _set_random_state(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
