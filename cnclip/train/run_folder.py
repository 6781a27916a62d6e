"""The files of a run, which remain usable if the process is killed at any moment.

    RUN/options.json      the options of the run
    RUN/last.pt           the newest state to resume from
    RUN/best/             the best weights so far, a ModelScope model directory
    RUN/best.cnclip.pt    the best weights as an archive
    RUN/metrics.jsonl     one line per interval and per validation
    RUN/skipped.jsonl     images that could not be read
    RUN/curve.png         a plot of the metrics
    RUN/tensorboard/      the metrics, for TensorBoard

Every file is replaced as a whole or appended to. When a run is resumed, metrics of steps after its
state are removed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .._files import (
    directory_replaced_atomically,
    remove,
    remove_temporaries,
    replaced_atomically,
    write_durably,
)
from .._text import first_line
from ..checkpoints.tensors import write_pickle
from ..errors import CheckpointError, InvalidInputError

STATE, OPTIONS, METRICS, SKIPPED = "last.pt", "options.json", "metrics.jsonl", "skipped.jsonl"
BEST, ARCHIVE, CURVE, TENSORBOARD = "best", "best.cnclip.pt", "curve.png", "tensorboard"
_PREVIOUS_BEST = ".best.old"


class RunFolder:
    """A run's folder, which `prepare` creates."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self, *, resume: bool) -> None:
        """Create the folder, or remove temporary files of a run to resume. One process calls.

        Raises:
            InvalidInputError: the folder contains a run, and `resume` is not set.
            OSError: the folder cannot be created.
        """
        path = self.path
        names = (STATE, OPTIONS, METRICS, SKIPPED, BEST, ARCHIVE, CURVE)
        existing = [name for name in names if (path / name).exists()]
        if not resume and existing:
            raise InvalidInputError(
                f"contains a run already ({existing[0]}); resume it, or choose another folder",
                file=path,
            )
        path.mkdir(parents=True, exist_ok=True)
        for name in names:
            remove_temporaries(path / name)
        previous = path / _PREVIOUS_BEST
        if previous.exists():  # a run was killed between the two renames of `write_best`
            if (path / BEST).exists():
                remove(previous)
            else:
                previous.rename(path / BEST)

    def read_state(self) -> dict[str, Any] | None:
        """The newest state, or None if none was written.

        Raises:
            CheckpointError: it is damaged, or not a state.
        """
        path = self.path / STATE
        if not path.exists():
            return None
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # on a damaged file torch raises many types
            raise CheckpointError(f"cannot be read: {first_line(error)}", file=path) from error
        if not isinstance(state, dict):
            raise CheckpointError("not the state of a run", file=path)
        return state

    def write_state(self, state: dict[str, Any]) -> None:
        """Replace the state."""
        with replaced_atomically(self.path / STATE, durable=True) as temporary:
            write_pickle(state, temporary)

    def write_options(self, options: dict[str, Any]) -> None:
        """Write the options of the run."""
        text = json.dumps(options, indent=1, ensure_ascii=False) + "\n"
        write_durably(self.path / OPTIONS, text.encode())

    def write_best(self, write: Callable[[Path], None]) -> None:
        """Replace the best weights by the files that `write` creates in an empty directory."""
        best, previous = self.path / BEST, self.path / _PREVIOUS_BEST
        with directory_replaced_atomically(best, previous=previous) as temporary:
            write(temporary)
