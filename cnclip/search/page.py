"""What was found as HTML with its images in it, for a browser or a notebook; asks no network."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .. import _html
from .._html import escape, image_url
from .collection import Hit
from .thumbnails import thumbnail

THUMBNAIL = 320
MAX_IN_NOTEBOOK = 100
"""Hits that a notebook shows, which keeps what it shows in its file."""


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
    note = "" if suggested is None else f" · {_note(suggested)}"
    body = f"<h1>{escape(query)}</h1><p>{escape(subtitle)}{note}</p>{_cards(hits, suggested)}"
    _html.write_page(path, query, _STYLE, body, "zh")


def notebook_html(hits: list[Hit], suggested: float | None = None) -> str:
    """What a notebook shows of one query, with a style that nothing else there takes on.

    Args:
        hits: What was found, best first. The first `MAX_IN_NOTEBOOK` are shown.
        suggested: Hits of a lower score are shown faintly.
    """
    shown = hits[:MAX_IN_NOTEBOOK]
    notes = []
    if suggested is not None and hits:
        notes.append(f"{_note(suggested)}，低于者变淡 fainter below")
    if len(hits) > len(shown):
        more = len(hits) - len(shown)
        notes.append(f"另有 {more} 个结果未显示 and {more} more")
    below = f"<p><small>{' · '.join(notes)}</small></p>" if notes else ""
    return f"<style>\n{_STYLE}</style>\n{_cards(shown, suggested)}{below}"


def _note(suggested: float) -> str:
    return f"建议阈值 suggested threshold {suggested:.3f}"


def _cards(hits: list[Hit], suggested: float | None) -> str:
    cards = "".join(_card(hit, suggested) for hit in hits)
    found = cards or "<p>没有结果 nothing was found</p>"
    return f'<section class="cnclip-found">{found}</section>'


def _card(hit: Hit, suggested: float | None) -> str:
    name = hit.text if hit.text is not None else os.path.basename(hit.name)
    share = "" if hit.probability is None else f" · {hit.probability:.1%}"
    faint = " class=faint" if suggested is not None and hit.score < suggested else ""
    image = "" if hit.text is not None else _image(hit)
    return (
        f"<article{faint}>{image}<b title='{escape(hit.name)}'>{escape(name)}</b>"
        f"<small>cosine {hit.score:.3f}{share}</small></article>"
    )


def _image(hit: Hit) -> str:
    """The thumbnail, which leads to the image itself."""
    path = hit.path
    small = thumbnail(hit, THUMBNAIL, THUMBNAIL)
    inner = "<span>?</span>"
    if small is not None:
        inner = f'<img src="{image_url(small, 80)}" alt="{escape(hit.name)}">'
    known = re.match(r"(https?|file):", path, re.IGNORECASE)
    if hit.name != path or (known is None and not os.path.isabs(path)):
        return inner  # it would lead to an archive, or from where the page lies elsewhere
    url = path if known else Path(path).as_uri()
    return f'<a href="{escape(url)}">{inner}</a>'


# Of the grid alone, since it stands among what others have styled.
_STYLE = """\
.cnclip-found { display: grid; gap: 16px; margin: 4px 0 }
.cnclip-found { grid-template-columns: repeat(auto-fill, minmax(160px, 1fr)) }
.cnclip-found article { border: 1px solid #8884; border-radius: 8px; padding: 12px }
.cnclip-found article { overflow-wrap: anywhere }
.cnclip-found b, .cnclip-found small { display: block; font-weight: 500 }
.cnclip-found > p { grid-column: 1 / -1 }
.cnclip-found b { max-height: 9em; overflow: auto }
.cnclip-found small, .cnclip-found .faint { opacity: .6 }
.cnclip-found img, .cnclip-found span { width: 100%; height: 160px; object-fit: contain }
.cnclip-found span { display: grid; place-items: center; opacity: .4 }
"""
