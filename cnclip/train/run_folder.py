"""What a run keeps on disk, so that it survives whatever ends the process.

    RUN/options.json      what was asked for
    RUN/last.pt           the newest state to resume from
    RUN/best/             the best weights so far, a ModelScope model directory
    RUN/best.cnclip.pt    the same as an archive
    RUN/metrics.jsonl     a line for each interval and validation
    RUN/skipped.jsonl     images that could not be read
    RUN/curve.png         the metrics, drawn
    RUN/tensorboard/      the metrics, for TensorBoard

Every file is replaced as a whole or appended to; metrics behind the state that a run resumes from
are taken away.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from .._files import (
    directory_replaced_atomically,
    remove,
    remove_temporaries,
    replaced_atomically,
)
from ..checkpoints.pickles import write_pickle
from ..errors import CheckpointError, InvalidInputError
from .curve import curve_of

STATE, OPTIONS, METRICS, SKIPPED = "last.pt", "options.json", "metrics.jsonl", "skipped.jsonl"
BEST, ARCHIVE, CURVE, TENSORBOARD = "best", "best.cnclip.pt", "curve.png", "tensorboard"
_OLD = ".best.old"


class RunFolder:
    """A run's folder.

    Attributes:
        path: Where it is.
    """

    def __init__(self, path: Path) -> None:
        """Take a path; nothing is done to it yet."""
        self.path = path

    def prepare(self, *, resume: bool) -> None:
        """Make the folder, or clean up the one of a run to resume. One process calls.

        Raises:
            InvalidInputError: there is a run already, and it is not to be resumed.
            OSError: it cannot be made.
        """
        path = self.path
        names = (STATE, OPTIONS, METRICS, SKIPPED, BEST, ARCHIVE, CURVE)
        there = [name for name in names if (path / name).exists()]
        if not resume and there:
            raise InvalidInputError(
                f"{path}: holds a run already ({there[0]}); resume it, or name another folder"
            )
        path.mkdir(parents=True, exist_ok=True)
        for name in names:
            remove_temporaries(path / name)
        old = path / _OLD
        if old.exists():  # a run ended between the two renames of `write_best`
            if (path / BEST).exists():
                remove(old)
            else:
                old.rename(path / BEST)

    def read_state(self) -> dict[str, Any] | None:
        """The newest state; None where there is none yet.

        Raises:
            CheckpointError: it is damaged, or not a state.
        """
        path = self.path / STATE
        if not path.exists():
            return None
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises whatever a damaged file leads it to
            raise CheckpointError(f"{path}: cannot be read: {error}") from error
        if not isinstance(state, dict):
            raise CheckpointError(f"{path}: not the state of a run")
        return state

    def write_state(self, state: dict[str, Any]) -> None:
        """Replace the state."""
        with replaced_atomically(self.path / STATE, durable=True) as temporary:
            write_pickle(state, temporary)

    def write_options(self, options: dict[str, Any]) -> None:
        """Write what was asked for."""
        with replaced_atomically(self.path / OPTIONS) as temporary:
            temporary.write_text(json.dumps(options, indent=1, ensure_ascii=False) + "\n", "utf-8")

    def write_best(self, write: Callable[[Path], None]) -> None:
        """Replace the best weights by what `write` puts into an empty directory."""
        best, old = self.path / BEST, self.path / _OLD
        with directory_replaced_atomically(best, previous=old) as temporary:
            write(temporary)

    def add_metrics(self, values: dict[str, Any]) -> None:
        """Append a line."""
        with (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(values, ensure_ascii=False) + "\n")

    def add_skipped(self, where: str, what: str) -> None:
        """Append a line of an image that could not be read."""
        with (self.path / SKIPPED).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(json.dumps({"where": where, "what": what}, ensure_ascii=False) + "\n")

    def skipped(self) -> set[str]:
        """The places of the images that could not be read so far."""
        return {str(line["where"]) for line in self._lines(SKIPPED) if "where" in line}

    def metrics(self) -> list[dict[str, Any]]:
        """The lines so far; one that was cut off is left out."""
        return [line for line in self._lines(METRICS) if isinstance(line.get("step"), int)]

    def _lines(self, name: str) -> Iterator[dict[str, Any]]:
        try:
            lines = (self.path / name).read_text("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            with contextlib.suppress(ValueError):
                if isinstance(value := json.loads(line), dict):
                    yield value

    def forget_metrics_behind(self, step: int) -> None:
        """Take away the lines of steps that are to be made again."""
        kept = [values for values in self.metrics() if values["step"] <= step]
        with replaced_atomically(self.path / METRICS) as temporary:
            lines = (json.dumps(values, ensure_ascii=False) + "\n" for values in kept)
            temporary.write_text("".join(lines), "utf-8")

    def draw_curve(self) -> None:
        """Draw the metrics, where matplotlib is installed."""
        drawn = curve_of(self.metrics())
        if drawn is not None:
            with replaced_atomically(self.path / CURVE) as temporary:
                temporary.write_bytes(drawn)
