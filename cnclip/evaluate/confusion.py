"""Draws a confusion matrix. Needs matplotlib."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._files import replaced_atomically
from ..errors import MissingExtraError

try:
    from matplotlib import font_manager
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtraError("plot", "matplotlib") from error

if TYPE_CHECKING:
    from .classify import ZeroShotReport

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
# More classes than this are told apart by numbers of ticks only.
MAX_NAMES = 60


def draw(report: ZeroShotReport, path: Path) -> None:
    """Draw a report's confusion matrix as PNG: shares of each row, classes by number and name.

    Names are drawn where the system has a font with Chinese characters.

    Raises:
        OSError: it cannot be written.
    """
    count = len(report.labels)
    side = min(max(4.0, 0.32 * count), 24.0)
    figure = Figure(figsize=(side + 3.0, side + 2.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    totals = np.maximum(report.confusion.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(100 * report.confusion / totals, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=axes, label="% of the class's images", shrink=0.7)
    installed = {font.name for font in font_manager.fontManager.ttflist}
    fonts = [name for name in CHINESE_FONTS if name in installed]
    if count <= MAX_NAMES:
        plain = not fonts and any(not name.isascii() for name in report.labels)
        names = [str(i) if plain else f"{i} {name}" for i, name in enumerate(report.labels)]
        axes.set_xticks(range(count), names, rotation=90)
        axes.set_yticks(range(count), names)
        for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            text.set_fontfamily([*fonts, "sans-serif"])
            text.set_parse_math(False)
    if count <= 20:
        for row in range(count):
            for column in range(count):
                if number := int(report.confusion[row, column]):
                    dark = number > 0.5 * totals[row, 0]
                    axes.text(
                        column,
                        row,
                        str(number),
                        ha="center",
                        va="center",
                        fontsize=7,
                        color="white" if dark else "black",
                    )
    axes.set_xlabel("taken for")
    axes.set_ylabel("class")
    axes.set_title(f"top-1 {report.top1:.1f} %, mean of the classes {report.mean_per_class:.1f} %")
    with replaced_atomically(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(temporary, format="png", dpi=110)
