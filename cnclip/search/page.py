"""What was found as a page: one HTML file with its pictures in it, which asks no network."""

from __future__ import annotations

import base64
import html
import io
import os
import re
from pathlib import Path

from ..cache import replaced_atomically
from .collection import Hit
from .thumbnails import thumbnail

THUMBNAIL = 320


def write_page(
    path: Path, query: str, hits: list[Hit], subtitle: str, suggested: float | None = None
) -> None:
    """Write the page of one query.

    Args:
        path: The file.
        query: What was looked for.
        hits: What was found, best first.
        subtitle: What stands under the query, such as the index's name.
        suggested: Hits of a lower score are shown faintly.

    Raises:
        OSError: it cannot be written.
    """
    cards = "".join(_card(hit, suggested) for hit in hits)
    note = "" if suggested is None else f" · 建议阈值 suggested threshold {suggested:.3f}"
    found = cards or "<p>没有结果 nothing was found</p>"
    content = (
        _HEAD.format(title=_text(query))
        + f"<h1>{_text(query)}</h1><p>{_text(subtitle)}{note}</p>"
        + f"<section>{found}</section></main></body></html>\n"
    )
    with replaced_atomically(path, mode=0o666) as temporary:
        temporary.write_text(content, encoding="utf-8")


def _card(hit: Hit, suggested: float | None) -> str:
    name = hit.text if hit.text is not None else os.path.basename(hit.path)
    share = "" if hit.probability is None else f" · {hit.probability:.1%}"
    faint = " class=faint" if suggested is not None and hit.score < suggested else ""
    picture = "" if hit.text is not None else _picture(hit.path)
    return (
        f"<article{faint}>{picture}<b title='{_text(hit.path)}'>{_text(name)}</b>"
        f"<small>cosine {hit.score:.3f}{share}</small></article>"
    )


def _picture(path: str) -> str:
    """The thumbnail, which leads to the picture itself."""
    small = thumbnail(path, THUMBNAIL, THUMBNAIL)
    inner = "<span>?</span>"
    if small is not None:
        stream = io.BytesIO()
        small.save(stream, "WEBP", quality=80)
        content = base64.b64encode(stream.getvalue()).decode("ascii")
        inner = f'<img src="data:image/webp;base64,{content}" alt="{_text(path)}">'
    known = re.match(r"(https?|file):", path, re.IGNORECASE)
    if known is None and not os.path.isabs(path):
        return inner  # from where the page lies, it would lead elsewhere
    url = path if known else Path(path).as_uri()
    return f'<a href="{_text(url)}">{inner}</a>'


def _text(value: str) -> str:
    return html.escape(value.encode("utf-8", "replace").decode())


_HEAD = """<!doctype html>
<html lang="zh"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.5 system-ui, "Noto Sans CJK SC", "Microsoft YaHei", sans-serif; margin: 0 }}
main {{ max-width: 1180px; margin: auto; padding: 24px }}
section {{ display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)) }}
article {{ border: 1px solid #8884; border-radius: 8px; padding: 12px; overflow-wrap: anywhere }}
article b, article small {{ display: block; font-weight: 500 }} small, .faint {{ opacity: .6 }}
img, span {{ width: 100%; height: 160px; object-fit: contain }} span {{ display: grid }}
span {{ place-items: center; opacity: .4 }}
</style></head><body><main>
"""
