"""Reports of classification in notebooks."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.html import HOSTILE, ParsedHtml, selectors

from cnclip.datasets import Problem, ProblemKind
from cnclip.errors import Where
from cnclip.evaluate import ZeroShotReport
from cnclip.evaluate.confusion_table import MAX_CLASSES


def report(confusion: list[list[int]], labels: list[str] | None = None) -> ZeroShotReport:
    matrix = np.array(confusion, np.int64)
    labels = labels or [f"类{number}" for number in range(len(matrix))]
    totals = matrix.sum(axis=1)
    shares = [
        100 * int(right) / int(n) if n else None
        for right, n in zip(matrix.diagonal(), totals, strict=True)
    ]
    return ZeroShotReport(
        dataset=HOSTILE,
        model="emoji-cn",
        precision="fp32",
        labels=labels,
        templates=["{}"],
        top1=100 * int(matrix.trace()) / int(matrix.sum()),
        top5=None,
        mean_per_class=50.0,
        per_class=dict(zip(labels, shares, strict=True)),
        confusion=matrix,
        images=int(matrix.sum()),
        problems=[],
    )


def test_style_applies_to_the_table_only() -> None:
    html = report([[1, 0], [0, 1]])._repr_html_()
    found = selectors(html)
    assert len(found) > 4 and all(re.match(r"\.cnclip-confusion\b", one) for one in found)
    assert 'class="cnclip-confusion"' in html


@pytest.mark.parametrize(
    ("locale", "mean", "corner"),
    [
        ("zh_CN.UTF-8", "平均每类准确率", "真实类别 ↓ / 预测类别 →"),
        ("en_US.UTF-8", "mean per class", "true class ↓ / predicted class →"),
        ("C", "mean per class", "true class ↓ / predicted class →"),
    ],
)
def test_report_shows_predicted_classes(
    locale: str, mean: str, corner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", locale)
    seen = ParsedHtml(
        report([[3, 1, 0], [0, 2, 0], [0, 0, 0]], ["猫", "<b>狗</b>", "鸟"])._repr_html_()
    )
    assert not seen.all("script") and len(seen.all("b")) == 1
    assert [one for one in seen.text if one.isdecimal()] == ["3", "1", "2"]
    assert [one for one in seen.text if one.endswith("%")] == [
        f"top-1 83.3 % · {mean} 50.0 %",
        "75 %",
        "100 %",
    ]
    assert corner in seen.text
    shades = [
        re.findall(r"rgba\((\d+),.*, (.*)\)", one.get("style") or "") for one in seen.all("td")
    ]
    assert [one[0] for one in shades if one] == [("43", "0.45"), ("201", "0.15"), ("43", "0.60")]


def test_report_counts_what_was_skipped() -> None:
    problem = Problem(ProblemKind.NO_IMAGE, Where(file="list.txt", line=3), "no such file")
    found = replace(report([[1]]), problems=[problem])
    assert (
        "top-1 100.0 % · mean per class 50.0 % · skipped 1" in ParsedHtml(found._repr_html_()).text
    )


@pytest.mark.parametrize(("count", "counted"), [(20, True), (60, False)])
def test_drawing_leaves_out_what_would_overlap(
    count: int, counted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = pytest.importorskip("matplotlib.figure")
    from cnclip.evaluate.confusion_plot import draw_confusion

    drawn: list[Any] = []

    def keep(figure: Any, path: Path, **options: object) -> None:
        drawn.append(figure.axes[0])
        path.touch()

    monkeypatch.setattr(figures.Figure, "savefig", keep)
    for classes in (count, count + 1):
        draw_confusion(report(np.eye(classes, dtype=int).tolist()), tmp_path / "c.png")
    few, many = drawn
    assert (len(few.texts), len(many.texts)) == (count if counted else 0, 0)
    names = [len({label.get_text() for label in axes.get_xticklabels()}) for axes in drawn]
    assert names[0] == count
    assert (names[1] == count + 1) == (count < 60)


def test_report_of_many_classes_has_no_columns() -> None:
    count = MAX_CLASSES + 1
    seen = ParsedHtml(report(np.eye(count, dtype=int).tolist())._repr_html_())
    assert len(seen.all("tr")) == count + 1 and len(seen.all("td")) == count
