"""AdamW, its parameter groups, and the learning rate of each step, as cn_clip has them."""

from __future__ import annotations

import copy
import math
from typing import Generic, TypeVar

import torch
from torch import nn

from .options import TrainOptions


def make_optimizer(model: nn.Module, options: TrainOptions) -> torch.optim.AdamW:
    """AdamW without decay on norms, biases, vectors and the logit scale (cn_clip's groups)."""
    parameters = [value for value in model.parameters() if value.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": options.wd},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=options.lr,
        betas=(options.beta1, options.beta2),
        eps=options.eps,
    )


def learning_rate(step: int, steps: int, options: TrainOptions) -> float:
    """Of a step, counted from 0: a linear warm-up, then half a cosine down to 0."""
    if step < options.warmup:
        return options.lr * (step + 1) / options.warmup
    if options.skip_scheduler:
        return options.lr
    done = (step - options.warmup) / max(1, steps - options.warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done))) * options.lr


Model = TypeVar("Model", bound=nn.Module)


class AverageModel(Generic[Model]):
    """A model whose weights are an exponential moving average of another's.

    Attributes:
        model: That model.
    """

    def __init__(self, model: Model, decay: float) -> None:
        """Begin with a copy of a model."""
        self.model = copy.deepcopy(model)
        self._decay = decay

    @torch.no_grad()
    def add(self, model: Model, step: int) -> None:
        """Take in the weights behind a step, counted from 1; at first the newest count more."""
        decay = min(self._decay, (1 + step) / (10 + step))
        mine, newest = self.model.state_dict(), model.state_dict()
        floats = [name for name in newest if newest[name].is_floating_point()]
        torch._foreach_lerp_(
            [mine[name] for name in floats], [newest[name] for name in floats], 1 - decay
        )
        for name in newest.keys() - set(floats):
            mine[name].copy_(newest[name])
