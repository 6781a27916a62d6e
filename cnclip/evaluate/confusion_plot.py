"""Draws a confusion matrix as an image. Needs matplotlib."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from .._checks import requires_extra
from .._files import replaced_atomically
from .reports import ZeroShotReport

with requires_extra("plot", "matplotlib"):
    from matplotlib import font_manager
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

# Fonts with Chinese characters that systems have.
CHINESE_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Droid Sans Fallback",
)
# With more classes the axes have numbers instead of names.
MAX_NAMES = 60
# With more classes the cells have no counts.
MAX_COUNTS = 20


def draw_confusion(report: ZeroShotReport, path: Path) -> None:
    """Draw a report's confusion matrix as PNG, as shares of each row.

    Classes are named by number and name. Chinese names need a Chinese font on the system; without
    one only the numbers are drawn.

    Raises:
        OSError: the file cannot be written.
    """
    side = min(max(4.0, 0.32 * len(report.labels)), 24.0)
    figure = Figure(figsize=(side + 3.0, side + 2.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    totals = np.maximum(report.confusion.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(100 * report.confusion / totals, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=axes, label="% of the class's images", shrink=0.7)
    if len(report.labels) <= MAX_NAMES:
        _draw_names(axes, report.labels)
    if len(report.labels) <= MAX_COUNTS:
        _draw_counts(axes, report)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(f"top-1 {report.top1:.1f} %, mean per class {report.mean_per_class:.1f} %")
    with replaced_atomically(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(temporary, format="png", dpi=110)


def _draw_names(axes: Axes, labels: list[str]) -> None:
    installed = {font.name for font in font_manager.fontManager.ttflist}
    fonts = [name for name in CHINESE_FONTS if name in installed]
    only_numbers = not fonts and not all(label.isascii() for label in labels)
    names = [str(i) if only_numbers else f"{i} {label}" for i, label in enumerate(labels)]
    axes.set_xticks(range(len(labels)), names, rotation=90)
    axes.set_yticks(range(len(labels)), names)
    for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        text.set_fontfamily([*fonts, "sans-serif"])
        text.set_parse_math(False)


def _draw_counts(axes: Axes, report: ZeroShotReport) -> None:
    totals = report.confusion.sum(axis=1)
    for row, column in np.argwhere(report.confusion).tolist():
        count = int(report.confusion[row, column])
        color = "white" if count > 0.5 * totals[row] else "black"
        axes.text(column, row, str(count), ha="center", va="center", fontsize=7, color=color)
