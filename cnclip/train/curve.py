"""A run's metrics as an image, and for TensorBoard."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any


def curve_of(metrics: list[dict[str, Any]]) -> bytes | None:
    """Loss, recall on the validation set and learning rate over the steps.

    Args:
        metrics: Lines of `metrics.jsonl`.

    Returns:
        A PNG file; None where matplotlib is not installed.
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
    checks = [line for line in metrics if "text_to_image" in line]
    for direction, style in (("text_to_image", "-"), ("image_to_text", "--")):
        for k, colour in (("R@1", "C0"), ("R@5", "C1"), ("R@10", "C2")):
            recall.plot(
                [line["step"] for line in checks],
                [line[direction][k] for line in checks],
                style,
                color=colour,
                marker=".",
                label=f"{k}, {direction.replace('_', ' ')}",
            )
    recall.set_ylabel("recall on the validation set, %")
    if checks:
        recall.legend(fontsize="small", ncols=2)
    rate.plot([line["step"] for line in steps], [line["lr"] for line in steps])
    rate.set_ylabel("learning rate")
    rate.set_xlabel("step")
    for axes in (loss, recall, rate):
        axes.grid(alpha=0.3)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


class TensorBoard:
    """Events for TensorBoard; nothing where it is not installed.

    Attributes:
        writer: torch's, or None.
    """

    def __init__(self, folder: Path, step: int) -> None:
        """Begin to write into a folder; what it holds of later steps counts no longer."""
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
        """Write what is left."""
        if self.writer is not None:
            self.writer.close()
