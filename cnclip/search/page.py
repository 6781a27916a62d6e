"""Hits as HTML with thumbnails, for a browser or a notebook. Nothing is loaded from the network."""

from __future__ import annotations

import os
from pathlib import Path

from .. import _html
from .._files import replaced_atomically
from .._html import escape, image_url
from .._locale import Words, locale_language, translations
from ..pipelines.scores import format_score
from .hits import Hit

MAX_IN_NOTEBOOK = 100
"""Hits that a notebook displays; it stores them in its file."""

_THUMBNAIL = 320


# Filled in with `str.format`.
_WORDS = translations(
    threshold=("建议阈值 {:.3f}", "suggested threshold {:.3f}"),
    faint=("低于阈值的结果以浅色显示", "lower scores are shown faintly"),
    more=("另有 {} 个结果未显示", "results not shown: {}"),
    nothing=("没有结果", "no results"),
    cosine=("余弦相似度", "cosine"),
)


def write_page(
    path: Path, query: str, hits: list[Hit], subtitle: str, suggested: float | None = None
) -> None:
    """Write an HTML page with the results of one query, in the user's language.

    The query is the title; `subtitle` is the line below it. Hits with a lower score than
    `suggested` are shown faintly.

    Raises:
        OSError: the file cannot be written.
    """
    language = locale_language()
    words = _WORDS[language]
    note = "" if suggested is None else f" · {words.threshold.format(suggested)}"
    heading = f"<h1>{escape(query)}</h1><p>{escape(subtitle)}{note}</p>"
    body = heading + _cards(hits, suggested, words)
    with replaced_atomically(path) as temporary:
        temporary.write_text(_html.page(query, _STYLE, body, language), encoding="utf-8")


def notebook_html(hits: list[Hit], suggested: float | None = None) -> str:
    """The HTML that a notebook displays for one query, with a style limited to itself.

    The first `MAX_IN_NOTEBOOK` hits are shown, those with a lower score than `suggested` faintly.
    """
    words = _WORDS[locale_language()]
    shown = hits[:MAX_IN_NOTEBOOK]
    notes = []
    if suggested is not None and hits:
        notes += [words.threshold.format(suggested), words.faint]
    if len(hits) > len(shown):
        notes.append(words.more.format(len(hits) - len(shown)))
    below = f"<p><small>{' · '.join(notes)}</small></p>" if notes else ""
    return f"<style>\n{_STYLE}</style>\n{_cards(shown, suggested, words)}{below}"


def _cards(hits: list[Hit], suggested: float | None, words: Words) -> str:
    cards = "".join(_card(hit, suggested, words.cosine) for hit in hits)
    content = cards or f"<p>{words.nothing}</p>"
    return f'<section class="cnclip-found">{content}</section>'


def _card(hit: Hit, suggested: float | None, cosine: str) -> str:
    caption = hit.text if hit.text is not None else os.path.basename(hit.name)
    probability = "" if hit.probability is None else f" · {hit.probability:.1%}"
    faint = " class=faint" if suggested is not None and hit.score < suggested else ""
    image = "" if hit.text is not None else _image(hit)
    return (
        f"<article{faint}>{image}<b title='{escape(hit.name)}'>{escape(caption)}</b>"
        f"<small>{cosine} {format_score(hit.score, suggested)}{probability}</small></article>"
    )


def _image(hit: Hit) -> str:
    """The thumbnail, as a link to the image file."""
    path = hit.path
    small = hit.thumbnail(_THUMBNAIL, _THUMBNAIL)
    inner = "<span>?</span>"
    if small is not None:
        inner = f'<img src="{image_url(small, 80)}" alt="{escape(hit.name)}">'
    is_url = path.lower().startswith(("http:", "https:", "file:"))
    if hit.name != path or not (is_url or os.path.isabs(path)):
        return inner  # an archive cannot be shown, a relative path depends on the page's folder
    url = path if is_url else Path(path).as_uri()
    return f'<a href="{escape(url)}">{inner}</a>'


# Every rule names the grid, since a notebook has other styled content.
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
