"""The gradient of one batch, which may be larger than one pass through the towers allows.

As in GradCache (Gao et al. 2021, arXiv:2101.06983): the loss needs the rows of the whole batch, the
towers only their own items. The rows of every part are computed first, without gradients. The
loss's gradient with respect to each row is then propagated through the towers, one part at a time.
The result is exactly the gradient of the whole batch, for any number of parts and processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .loss import Pairs, contrastive_loss, distillation_loss, matches
from .process import World, random_state, set_random_state

# Rows of images, rows of texts, logit scale; or the gradients with respect to them.
Rows = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Part:
    """Some pairs of a batch as tensors.

    Attributes:
        pixels: float32 [n, 3, r, r].
        ids: int64 [n, l].
        pairs: Which of them belong together.
        teacher: The teacher's pixels and ids, float32 [n, 3, s, s] and int64 [n, m], if there is
            a teacher.
    """

    pixels: Tensor
    ids: Tensor
    pairs: Pairs
    teacher: tuple[Tensor, Tensor] | None = None

    def to(self, device: torch.device) -> Part:
        """A copy on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Part:
        """A copy in page-locked memory; torch's DataLoader calls this."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Part:
        pairs = self.pairs
        return Part(
            change(self.pixels),
            change(self.ids),
            Pairs(change(pairs.images), change(pairs.texts), change(pairs.described)),
            None if self.teacher is None else (change(self.teacher[0]), change(self.teacher[1])),
        )


@dataclass(frozen=True)
class Teacher:
    """A model whose similarities the student learns.

    Attributes:
        rows: Computes rows of images and of texts, and the logit scale, without gradients.
        weight: The factor of the distillation loss, which is added to the contrastive loss.
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
        """Prepare for a model.

        Args:
            model: A trainable Chinese-CLIP, perhaps compiled or in DistributedDataParallel.
            world: The processes that share a batch.
            autocast: Returns the context in which the towers run.
            duplicates: See `contrastive_loss`.
            teacher: For distillation.
        """
        self._model, self._world, self._autocast = model, world, autocast
        self._duplicates, self._teacher = duplicates, teacher

    def gradients(self, parts: list[Part], loss_factor: float = 1.0) -> Tensor:
        """Add the gradient of a batch's loss to that of the parameters.

        Args:
            parts: This process's pairs of the batch, each part small enough for the towers.
            loss_factor: Multiplies the loss before the gradient is computed (float16).

        Returns:
            The loss of the whole batch, 0-d float32, the same in each process.
        """
        if len(parts) == 1:
            with self._autocast():
                outputs = self._model(parts[0].pixels, parts[0].ids)
            rows: list[Rows] = [_detached(outputs)]
            states: list[list[Tensor]] = []
        else:
            rows, states = self._rows_of(parts)
        images, texts = (torch.cat([row[i] for row in rows]).requires_grad_() for i in range(2))
        scale = rows[0][2].requires_grad_()
        loss, gradients = self._loss(parts, images, texts, scale, loss_factor)
        if len(parts) == 1:
            self._backward(outputs, gradients, 0, last=True)
            return loss
        start = 0
        for index, part in enumerate(parts):
            last = index + 1 == len(parts)
            repeated = _repeated_random_numbers(states[index], part.pixels.device)
            with repeated, self._no_gradient_exchange(not last):
                with self._autocast():
                    outputs = self._model(part.pixels, part.ids)
                self._backward(outputs, gradients, start, last)
            start += len(part.pixels)
        return loss

    def _rows_of(self, parts: list[Part]) -> tuple[list[Rows], list[list[Tensor]]]:
        """Rows of each part, without gradients, and the random state before each."""
        rows, states = [], []
        inner = getattr(self._model, "module", self._model)
        with torch.no_grad(), _frozen_statistics(inner):
            for part in parts:
                states.append(random_state(part.pixels.device))
                with self._autocast():
                    rows.append(_detached(inner(part.pixels, part.ids)))
        return rows, states

    def _loss(
        self, parts: list[Part], images: Tensor, texts: Tensor, scale: Tensor, loss_factor: float
    ) -> tuple[Tensor, Rows]:
        """The loss, and its gradients with respect to this process's rows and the scale."""
        world = self._world
        all_images = world.gather(images.detach()).requires_grad_()
        all_texts = world.gather(texts.detach()).requires_grad_()
        first = world.rank * len(images)
        own = slice(first, first + len(images))
        matching = None
        if self._duplicates != "negative":
            own_pairs = Pairs.cat([part.pairs for part in parts])
            matching = matches(*_gathered(own_pairs, world), first)
        loss = contrastive_loss(all_images, all_texts, scale, matching, own, self._duplicates)
        if self._teacher is not None:
            taught = [self._teacher.rows(part) for part in parts]
            loss = loss + self._teacher.weight * distillation_loss(
                all_images,
                all_texts,
                scale,
                world.gather(torch.cat([rows[0] for rows in taught])),
                world.gather(torch.cat([rows[1] for rows in taught])),
                taught[0][2],
                own,
            )
        by_image, by_text, by_scale = torch.autograd.grad(
            loss * loss_factor, [all_images, all_texts, scale]
        )
        # The loss of every process depends on these rows: sum its gradients. That of the scale is
        # averaged by DistributedDataParallel, like those of all parameters.
        by_image, by_text = world.sum(by_image), world.sum(by_text)
        mean = world.sum(loss.detach().clone()) / world.size
        return mean, (by_image[own], by_text[own], by_scale)

    def _backward(self, outputs: Rows, gradients: Rows, start: int, last: bool) -> None:
        """Propagate the gradients of a part, whose first row is `start`, through the towers."""
        end = start + len(outputs[0])
        by_image, by_text, by_scale = gradients
        # The scale's gradient is that of the whole batch: it counts once.
        of_part = (by_image[start:end], by_text[start:end], by_scale if last else by_scale * 0)
        trained = [
            (row, gradient)
            for row, gradient in zip(outputs, of_part, strict=True)
            if row.requires_grad
        ]
        torch.autograd.backward([row for row, _ in trained], [gradient for _, gradient in trained])

    def _no_gradient_exchange(self, active: bool) -> contextlib.AbstractContextManager[None]:
        """Processes exchange gradients once per batch, with those of the last part."""
        if active and isinstance(self._model, nn.parallel.DistributedDataParallel):
            context: contextlib.AbstractContextManager[None] = self._model.no_sync()
            return context
        return contextlib.nullcontext()


def _detached(rows: Rows) -> Rows:
    images, texts, scale = rows
    return images.detach(), texts.detach(), scale.detach().clone()


def _gathered(own: Pairs, world: World) -> tuple[Pairs, Pairs]:
    """The pairs of this process and those of all processes."""
    own = own.padded(world.max(own.described.shape[1]))
    everyone = (world.gather(keys) for keys in (own.images, own.texts, own.described))
    return own, Pairs(*everyone)


@contextlib.contextmanager
def _frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norms use the batch's statistics without updating theirs: a batch counts once."""
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


@contextlib.contextmanager
def _repeated_random_numbers(states: list[Tensor], device: torch.device) -> Iterator[None]:
    """Repeat the random numbers (dropout, masked patches) that followed these states."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        set_random_state(states, device)
        yield
