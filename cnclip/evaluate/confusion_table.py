"""A report of zero-shot classification as HTML, for a notebook. Needs no font and no matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._html import escape

if TYPE_CHECKING:
    from .classify import ZeroShotReport

MAX_CLASSES = 30
"""Of more than these the table has no columns, only each class's share."""


def notebook_html(report: ZeroShotReport) -> str:
    """The figures, and a row for each class: its share, and what its images were taken for."""
    figures = [f"top-1 {report.top1:.1f} %"]
    if report.top5 is not None:
        figures.append(f"top-5 {report.top5:.1f} %")
    figures.append(f"各类平均 mean of the classes {report.mean_per_class:.1f} %")
    left_out = sum(problem.skipped for problem in report.problems)
    if left_out:
        figures.append(f"略去 left out: {left_out}")
    subtitle = (
        f"{report.dataset}: {report.images} 张图片 images · {report.model}, {report.precision}"
        f" · {len(report.templates)} 个模板 templates"
    )
    return (
        f"<style>\n{_STYLE}</style>\n"
        f'<div class="cnclip-confusion"><p><b>{" · ".join(figures)}</b><br>{escape(subtitle)}</p>'
        f"{_table(report)}</div>"
    )


def _table(report: ZeroShotReport) -> str:
    names = report.labels
    full = len(names) <= MAX_CLASSES
    heads = "".join(f"<th>{escape(name)}</th>" for name in names) if full else ""
    rows = []
    for number, name in enumerate(names):
        share = report.per_class[name]
        cells = [f"<th>{escape(name)}</th><td>{'' if share is None else f'{share:.0f} %'}</td>"]
        counts = report.confusion[number].tolist()
        for column, count in enumerate(counts if full else []):
            # Green is right, red is wrong, the more of the class's images the stronger.
            color = "43, 138, 62" if column == number else "201, 42, 42"
            shade = 0.6 * count / max(1, sum(counts))
            style = f' style="background: rgba({color}, {shade:.2f})"' if count else ""
            cells.append(f"<td{style}>{count or ''}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    corner = "类别 class ↓ 判为 taken for →" if full else "类别 class"
    head = f"<tr><th>{corner}</th><th>top-1</th>{heads}</tr>"
    return f"<table>{head}{''.join(rows)}</table>"


_STYLE = """\
.cnclip-confusion { overflow-x: auto }
.cnclip-confusion table { border-collapse: collapse; margin: 0 }
.cnclip-confusion th, .cnclip-confusion td { border: 1px solid #8884; padding: 3px 8px }
.cnclip-confusion th, .cnclip-confusion td { text-align: center; font-weight: normal }
.cnclip-confusion tr > th:first-child { text-align: left }
"""
