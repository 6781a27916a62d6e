"""Pairs on their way from the loader to the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """Which images and texts of a batch belong together.

    Attributes:
        images: int64 [n], equal for images of equal content.
        texts: int64 [n], equal for texts of equal words.
        described: int64 [n, k], keys of other texts that the data set gives each image, filled up
            with the key of its own.
    """

    images: Tensor
    texts: Tensor
    described: Tensor


@dataclass(frozen=True)
class Part:
    """Some pairs of a batch, on the device.

    Attributes:
        pixels: float32 [n, 3, r, r].
        ids: int64 [n, l].
        pairs: Which of them belong together.
        teacher: What a teacher sees and reads, float32 [n, 3, s, s] and int64 [n, m], if there is
            one.
    """

    pixels: Tensor
    ids: Tensor
    pairs: Pairs
    teacher: tuple[Tensor, Tensor] | None = None

    def to(self, device: torch.device) -> Part:
        """The same on a device."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Part:
        """The same in memory that a GPU reads from; torch's loader calls it."""
        return self._mapped(Tensor.pin_memory)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Part:
        keys = (self.pairs.images, self.pairs.texts, self.pairs.described)
        taught = None if self.teacher is None else tuple(change(t) for t in self.teacher)
        return Part(
            change(self.pixels),
            change(self.ids),
            Pairs(*(change(key) for key in keys)),
            taught,  # type: ignore[arg-type]
        )
