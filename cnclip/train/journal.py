"""The log of a run: lines on stderr, metrics, their curve, and the images that were skipped."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .._files import flush, names_file, open_file, write_durably
from .._text import printable
from ..errors import ImageError
from .process import World
from .run_folder import CURVE, METRICS, SKIPPED, TENSORBOARD


class Journal:
    """Reports of all processes, which the first one prints and writes.

    Attributes:
        world: The processes.
        skipped: How many times an image could not be read, in all processes, including the
            steps before the run was resumed.
    """

    def __init__(self, folder: Path, world: World, *, show_progress: bool) -> None:
        """Write into a run's folder; print lines on stderr if `show_progress` is set."""
        self._folder, self.world = folder, world
        self._prints = show_progress and world.is_first
        self._tensorboard: Any = None
        self._unreported: list[ImageError] = []
        self._reported: set[str] = set()
        self.skipped = 0

    def begin(self, step: int, checked_step: int) -> None:
        """Continue after a step: drop the metrics of later steps, which will be repeated.

        Args:
            step: The step.
            checked_step: The step after which recall was measured last. A later measurement is
                repeated too.
        """
        if not self.world.is_first:
            return
        kept = [
            line
            for line in self._metrics()
            if line["step"] <= (checked_step if "text_to_image" in line else step)
        ]
        write_durably(self._folder / METRICS, "".join(map(_line, kept)).encode())
        skipped = self._folder / SKIPPED
        if skipped.exists():  # its last line may be incomplete
            reported = list(_lines(skipped))
            write_durably(skipped, "".join(map(_line, reported)).encode())
            self._reported = {str(line.get("where")) for line in reported}
        with contextlib.suppress(ImportError):  # tensorboard is optional
            from torch.utils.tensorboard import SummaryWriter

            path = str(self._folder / TENSORBOARD)
            self._tensorboard = SummaryWriter(path, purge_step=step + 1)

    def print(self, line: str) -> None:
        """Print a line on stderr."""
        if self._prints:
            print(printable(line), file=sys.stderr, flush=True)

    def add_metrics(self, values: dict[str, Any]) -> None:
        """Add a line to the metrics."""
        if self.world.is_first:
            self._append(METRICS, values)
        if self._tensorboard is not None:
            for name, number in _scalars(values):
                self._tensorboard.add_scalar(name, number, values["step"])

    def add_skipped(self, skipped: list[ImageError]) -> None:
        """Remember images that this process could not read, until `report_skipped`."""
        self._unreported += skipped
        if skipped and self.world.size == 1:
            self.report_skipped()

    def report_skipped(self) -> None:
        """Report the images added since the last call, each once. All processes call."""
        for errors in self.world.gather_objects(self._unreported):
            self.skipped += len(errors)
            for error in errors:
                where = str(error.where)
                if where not in self._reported:
                    self._reported.add(where)
                    if self.world.is_first:
                        self._append(SKIPPED, {"where": where, "what": error.reason})
                    self.print(f"skipped: {error}")
        self._unreported = []

    def flush(self) -> None:
        """Wait until all lines are on the disk: a state must not be newer than its metrics.

        Raises:
            OSError: they cannot be written; names the file.
        """
        if self.world.is_first:
            for name in (METRICS, SKIPPED):
                if (self._folder / name).exists():
                    flush(self._folder / name)

    @contextlib.contextmanager
    def drawn(self) -> Iterator[None]:
        """Draw the curve at the end of the steps, however they end.

        Raises:
            OSError: it cannot be written; names the file. It does not hide another exception.
        """
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):
                self._draw()
            raise
        self._draw()

    def _draw(self) -> None:
        if not self.world.is_first:
            return
        if self._tensorboard is not None:
            self._tensorboard.close()
        curve = draw_curve(self._metrics())
        if curve is not None:
            write_durably(self._folder / CURVE, curve)

    def _metrics(self) -> list[dict[str, Any]]:
        lines = _lines(self._folder / METRICS)
        return [line for line in lines if isinstance(line.get("step"), int)]

    def _append(self, name: str, values: dict[str, Any]) -> None:
        path = self._folder / name
        with (
            names_file(path),
            path.open("a", encoding="utf-8", errors="backslashreplace") as file,
        ):
            file.write(_line(values))


def _line(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False) + "\n"


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file that may not exist, without an incomplete last one."""
    if not path.exists():
        return
    with open_file(path) as file:
        text = file.read().decode("utf-8", "replace")
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            if isinstance(value := json.loads(line), dict):
                yield value


def _scalars(values: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """The curves of TensorBoard that a line of the metrics continues."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from ((f"{name}/{part}", number) for part, number in value.items())
        elif name != "step":
            yield name, value


def draw_curve(metrics: list[dict[str, Any]]) -> bytes | None:
    """Plot loss, recall on the validation set and learning rate over the steps.

    Args:
        metrics: Lines of `metrics.jsonl`.

    Returns:
        A PNG file, or None if matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(9, 7), layout="constrained")
    FigureCanvasAgg(figure)
    loss, recall, rate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1))
    steps = [line for line in metrics if "loss" in line]
    loss.plot([line["step"] for line in steps], [line["loss"] for line in steps])
    loss.set_ylabel("loss")
    validations = [line for line in metrics if "text_to_image" in line]
    for direction, style in (("text_to_image", "-"), ("image_to_text", "--")):
        for k, colour in (("R@1", "C0"), ("R@5", "C1"), ("R@10", "C2")):
            recall.plot(
                [line["step"] for line in validations],
                [line[direction][k] for line in validations],
                style,
                color=colour,
                marker=".",
                label=f"{k}, {direction.replace('_', ' ')}",
            )
    recall.set_ylabel("recall on the validation set, %")
    if validations:
        recall.legend(fontsize="small", ncols=2)
    rate.plot([line["step"] for line in steps], [line["lr"] for line in steps])
    rate.set_ylabel("learning rate")
    rate.set_xlabel("step")
    for axes in (loss, recall, rate):
        axes.grid(alpha=0.3)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()
