"""The log of a run: lines on stderr, metrics, their curve, and the images that were skipped."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from typing import Any

from .._text import printable
from ..errors import ImageError
from .process import World
from .run_folder import TENSORBOARD, RunFolder


class Journal:
    """Reports of all processes, which the first one prints and writes.

    Attributes:
        folder: The run's folder.
        world: The processes.
        skipped: How many times an image could not be read, in all processes, including the
            steps before the run was resumed.
    """

    def __init__(self, folder: RunFolder, world: World, *, show_progress: bool) -> None:
        """Write into a run's folder; print lines on stderr if `show_progress` is set."""
        self.folder, self.world = folder, world
        self._prints = show_progress and world.is_first
        self._tensorboard: Any = None
        self._unreported: list[ImageError] = []
        self._reported: set[str] = set()
        self.skipped = 0

    def begin(self, step: int) -> None:
        """Continue after a step: drop the metrics of later steps, which will be repeated."""
        if not self.world.is_first:
            return
        self.folder.drop_metrics_after(step)
        self._reported = self.folder.skipped()
        with contextlib.suppress(ImportError):  # tensorboard is optional
            from torch.utils.tensorboard import SummaryWriter

            path = str(self.folder.path / TENSORBOARD)
            self._tensorboard = SummaryWriter(path, purge_step=step + 1)

    def print(self, line: str) -> None:
        """Print a line on stderr."""
        if self._prints:
            print(printable(line), file=sys.stderr, flush=True)

    def add_metrics(self, values: dict[str, Any]) -> None:
        """Add a line to the metrics."""
        if self.world.is_first:
            self.folder.add_metrics(values)
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
                        self.folder.add_skipped(where, error.reason)
                    self.print(f"skipped: {error}")
        self._unreported = []

    def end(self) -> None:
        """Draw the curve. An OSError here must not hide the exception that ended the run."""
        if not self.world.is_first:
            return
        with contextlib.suppress(OSError):
            if self._tensorboard is not None:
                self._tensorboard.close()
            curve = draw_curve(self.folder.metrics())
            if curve is not None:
                self.folder.write_curve(curve)


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
