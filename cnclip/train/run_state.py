"""The state of a run between two steps: all that `last.pt` holds."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from typing import Any

import torch

from ..checkpoints.checkpoint import Checkpoint
from ..datasets.pairs import PairData
from ..errors import CheckpointError, InvalidInputError, ModelRunError
from .distributed import World
from .optimizer import AverageModel, make_optimizer
from .options import TrainOptions
from .run_folder import RunFolder
from .towers import TrainableClip
from .validate import Recall

Recalls = tuple[Recall, Recall]


class RunState:
    """A model in training.

    Attributes:
        model: The model.
        average: The average of its weights, if one is kept.
        optimizer: Its optimizer.
        scaler: Of float16's gradients.
        step: Steps that were made.
        losses: Of the steps since the last line of the log, 0-d.
        loss: Of the last line of the log.
        before: Recall, text to image and image to text, before the first step.
        best: The same of the best weights.
        best_value: What the best weights were chosen by.
        best_step: The step behind which they were the best.
        checked_step: The step behind which recall was measured last.
    """

    def __init__(self, model: TrainableClip, options: TrainOptions, world: World) -> None:
        """Begin with a model."""
        self._options, self._world = options, world
        self.model = model
        self.average = AverageModel(model, options.ema_decay) if options.ema_decay else None
        self.optimizer = make_optimizer(model, options)
        self.scaler = torch.amp.GradScaler("cuda", enabled=options.precision == "fp16")
        self.step = 0
        self.losses: list[torch.Tensor] = []
        self.loss = math.nan
        self.before: Recalls | None = None
        self.best: Recalls | None = None
        self.best_value, self.best_step = -math.inf, 0
        self.checked_step = -1

    @property
    def kept(self) -> TrainableClip:
        """The model that is validated and kept."""
        return self.model if self.average is None else self.average.model

    def check(self) -> None:
        """See that all weights are numbers.

        Raises:
            ModelRunError: they are not.
        """
        trained = [p.detach() for p in self.model.parameters() if p.requires_grad]
        if not bool(torch.stack(torch._foreach_norm(trained)).isfinite().all()):
            raise ModelRunError(
                f"weights are no longer finite at step {self.step}: take a smaller learning rate; "
                "the state that was saved is from before"
            )

    def write(self, folder: RunFolder, of: dict[str, str], skipped: int) -> None:
        """Write the state. All processes call.

        Args:
            folder: The run's.
            of: What the run is made of, see `made_of`.
            skipped: How many images could not be read.

        Raises:
            ModelRunError: weights are not finite; the state before is kept.
            OSError: it cannot be written.
        """
        self.check()
        random = [torch.get_rng_state()]
        if self._world.device.type == "cuda":
            random.append(torch.cuda.get_rng_state(self._world.device))
        states = self._world.objects(random)
        if not self._world.is_first:
            return
        folder.write_state(
            {
                "options": self._options.fixed(),
                "of": of,
                "processes": self._world.size,
                "skipped": skipped,
                "model": self.model.state_dict(),
                "average": None if self.average is None else self.average.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "random": states,
                "losses": [float(loss) for loss in self.losses],
            }
            | {name: getattr(self, name) for name in _PLAIN}
        )

    def take(self, state: dict[str, Any], of: dict[str, str]) -> int:
        """Go on from a state that was written.

        Returns:
            How many images could not be read.

        Raises:
            InvalidInputError: it is of a run of other options, data, model or processes.
            CheckpointError: it is damaged.
        """
        try:
            self._compare(state, of)
            self.model.load_state_dict(state["model"])
            if self.average is not None:
                self.average.model.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            random = state["random"][self._world.rank]
            torch.set_rng_state(random[0])
            if self._world.device.type == "cuda" and len(random) > 1:
                torch.cuda.set_rng_state(random[1], self._world.device)
            self.losses = [
                torch.tensor(loss, device=self._world.device) for loss in state["losses"]
            ]
            for name in _PLAIN:
                setattr(self, name, state[name])
            return int(state["skipped"])
        except InvalidInputError:
            raise
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
            raise CheckpointError(f"the state of the run is damaged: {error!r:.300}") from error

    def _compare(self, state: dict[str, Any], of: dict[str, str]) -> None:
        mine = self._options.fixed() | {"processes": self._world.size}
        theirs = state["options"] | {"processes": state["processes"]}
        for name in sorted(mine):
            if mine[name] != theirs.get(name):
                raise InvalidInputError(
                    f"{name}: {mine[name]}, but the run to resume has {theirs.get(name)}"
                )
        for name, digest in of.items():
            if state["of"].get(name) != digest:
                raise InvalidInputError(
                    f"{name}: not the one that the run to resume has, or changed since"
                )


_PLAIN = ("step", "loss", "before", "best", "best_value", "best_step", "checked_step")


def made_of(start: Checkpoint, train: PairData, val: PairData | None) -> dict[str, str]:
    """Digests of what a run is made of, by their names: the same when it is resumed."""
    model = (dataclasses.asdict(start.config), start.mean, start.std, start.vocabulary)
    return {
        "model": hashlib.sha256(repr(model).encode()).hexdigest(),
        "train": train.fingerprint,
        "val": "" if val is None else val.fingerprint,
    }
