"""The state of a run between two steps: the content of `last.pt`."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from pathlib import Path
from typing import Any

import torch

from .._files import check_file, replaced_atomically
from .._text import first_line, type_and_line
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.tensors import write_pickle
from ..datasets.pairs import PairData
from ..errors import CheckpointError, InvalidInputError, ModelRunError
from ..modeling.clip import ChineseClip
from .model import AverageModel, make_optimizer
from .options import TrainOptions
from .process import World, random_state, set_random_state
from .validate import Recall

# Text to image, image to text.
Recalls = tuple[Recall, Recall]


class RunState:
    """A model in training.

    Attributes:
        average: The average of the model's weights, if `ema_decay` is set.
        scaler: The scaler of float16 gradients.
        step: The number of completed steps.
        losses: Losses of the steps since the last line of the log, 0-d.
        loss: The mean loss in the last line of the log.
        before: Recall before the first step.
        best: Recall of the best weights, whose mean is `best_value`.
        best_step: The step after which the weights were best.
        checked_step: The step after which recall was measured last.
    """

    def __init__(self, model: ChineseClip, options: TrainOptions, world: World) -> None:
        """Start with a model."""
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
    def saved_model(self) -> ChineseClip:
        """The model that is validated and written to `best`."""
        return self.model if self.average is None else self.average.model

    def check_weights(self) -> None:
        """Raise ModelRunError if a weight is not finite."""
        trained = [p.detach() for p in self.model.parameters() if p.requires_grad]
        if not bool(torch.stack(torch._foreach_norm(trained)).isfinite().all()):
            raise ModelRunError(
                f"weights are no longer finite at step {self.step}: use a smaller learning rate; "
                "the saved state is from an earlier step"
            )

    def write(self, path: Path, digests: dict[str, str], skipped: int) -> None:
        """Replace the file of the state. All processes call.

        Args:
            path: The file.
            digests: The result of `digests_of`.
            skipped: How many images could not be read.

        Raises:
            ModelRunError: weights are not finite; the earlier state is kept.
            OSError: the state cannot be written.
        """
        self.check_weights()
        random_states = self._world.gather_objects(random_state(self._world.device))
        if not self._world.is_first:
            return
        state = {
            "options": self._options.fixed(),
            "of": digests,
            "processes": self._world.size,
            "skipped": skipped,
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": random_states,
            "losses": [float(loss) for loss in self.losses],
        }
        with replaced_atomically(path) as temporary:
            plain = {name: getattr(self, name) for name in _PLAIN_FIELDS}
            write_pickle(state | plain, temporary)

    def restore(self, path: Path, digests: dict[str, str]) -> int:
        """Continue from a state that `write` wrote.

        Returns:
            How many images could not be read.

        Raises:
            InvalidInputError: it belongs to a run with other options, data, model or processes.
            CheckpointError: it is damaged.
        """
        try:
            check_file(path)
            state = torch.load(path, map_location="cpu", weights_only=True)
        except MemoryError:
            raise
        except Exception as error:  # on a damaged file torch raises many types
            raise CheckpointError(f"cannot be read: {first_line(error)}", file=path) from error
        try:
            self._compare(state, digests)
            self.model.load_state_dict(state["model"])
            if self.average is not None:
                self.average.model.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            set_random_state(state["random"][self._world.rank], self._world.device)
            self.losses = [
                torch.tensor(loss, device=self._world.device) for loss in state["losses"]
            ]
            for name in _PLAIN_FIELDS:
                setattr(self, name, state[name])
            return int(state["skipped"])
        except InvalidInputError:
            raise
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
            reason = f"the state of the run is damaged: {type_and_line(error)}"
            raise CheckpointError(reason, file=path) from error

    def _compare(self, state: dict[str, Any], digests: dict[str, str]) -> None:
        options = self._options.fixed() | {"processes": self._world.size}
        saved = state["options"] | {"processes": state["processes"]}
        for name in sorted(options):
            if options[name] != saved.get(name):
                raise InvalidInputError(
                    f"{options[name]}, but the run to resume has {saved.get(name)}", item=name
                )
        for name, digest in digests.items():
            if state["of"].get(name) != digest:
                raise InvalidInputError(
                    "differs from that of the run to resume, or has changed since", item=name
                )


_PLAIN_FIELDS = ("step", "loss", "before", "best", "best_value", "best_step", "checked_step")


def digests_of(start: Checkpoint, train: PairData, val: PairData | None) -> dict[str, str]:
    """Digests of the model and the data sets, by which a resumed run recognises them."""
    model = (dataclasses.asdict(start.config), start.mean, start.std, start.vocabulary)
    return {
        "model": hashlib.sha256(repr(model).encode()).hexdigest(),
        "train": train.fingerprint,
        "val": "" if val is None else val.fingerprint,
    }
