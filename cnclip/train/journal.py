"""The log of a run: lines on stderr, metrics, their curve, and the images that were skipped."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import Any

from .._text import printable
from .loader import SkippedImage
from .process import World
from .run_folder import TENSORBOARD, RunFolder


class Journal:
    """Prints and writes in the first process what all processes report.

    Attributes:
        skipped: How many times an image could not be read, in all processes, including the
            steps before the run was resumed.
    """

    def __init__(self, folder: RunFolder, world: World, *, show_progress: bool) -> None:
        """Write into a run's folder; print lines on stderr if `show_progress` is set."""
        self._folder, self._world = folder, world
        self._prints = show_progress and world.is_first
        self._board: TensorBoard | None = None
        self._unreported: list[SkippedImage] = []
        self._reported: set[str] = set()
        self.skipped = 0

    def begin(self, step: int) -> None:
        """Continue after a step: drop the metrics of later steps, which will be repeated."""
        if self._world.is_first:
            self._folder.drop_metrics_after(step)
            self._reported = self._folder.skipped()
            self._board = TensorBoard(self._folder.path / TENSORBOARD, step)

    def print(self, line: str) -> None:
        """Print a line on stderr."""
        if self._prints:
            print(printable(line), file=sys.stderr, flush=True)

    def add_metrics(self, values: dict[str, Any]) -> None:
        """Add a line to the metrics."""
        if self._board is not None:
            self._folder.add_metrics(values)
            self._board.add(values)

    def add_skipped(self, skipped: list[SkippedImage]) -> None:
        """Remember images that this process could not read, until `report_skipped`."""
        self._unreported += skipped
        if skipped and self._world.size == 1:
            self.report_skipped()

    def report_skipped(self) -> None:
        """Report the images added since the last call, each once. All processes call."""
        for images in self._world.gather_objects(self._unreported):
            self.skipped += len(images)
            for image in images:
                if image.where not in self._reported:
                    self._reported.add(image.where)
                    if self._world.is_first:
                        self._folder.add_skipped(image.where, image.reason)
                    self.print(f"skipped: {image}")
        self._unreported = []

    def end(self) -> None:
        """Draw the curve. An OSError here must not hide the exception that ended the run."""
        if self._board is not None:
            with contextlib.suppress(OSError):
                self._board.close()
                curve = draw_curve(self._folder.metrics())
                if curve is not None:
                    self._folder.write_curve(curve)


class TensorBoard:
    """Events for TensorBoard; does nothing if it is not installed.

    Attributes:
        writer: torch's SummaryWriter, or None.
    """

    def __init__(self, folder: Path, step: int) -> None:
        """Write into a folder; TensorBoard ignores its earlier events of steps after `step`."""
        self.writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self.writer = SummaryWriter(str(folder), purge_step=step + 1)

    def add(self, values: dict[str, Any]) -> None:
        """Add a line of `metrics.jsonl`."""
        if self.writer is None:
            return
        step = values["step"]
        for name, value in values.items():
            if isinstance(value, dict):
                for part, number in value.items():
                    self.writer.add_scalar(f"{name}/{part}", number, step)
            elif name != "step" and isinstance(value, int | float):
                self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write the buffered events."""
        if self.writer is not None:
            self.writer.close()


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
