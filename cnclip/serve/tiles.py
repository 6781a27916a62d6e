"""Answers as HTML with embedded images. All text is escaped."""

from __future__ import annotations

from PIL import Image

from .._html import escape, image_url
from .._locale import Words
from ..pipelines.scores import format_score
from .answers import Probabilities, Results, Tile

_MIN_BAR = 0.004


def grid(results: Results, words: Words) -> str:
    """Tiles in a grid, each with its image or text, caption, score and share."""
    tiles = "".join(_tile(tile, words) for tile in results.tiles)
    return f'<div class="tiles">{tiles}</div>' if tiles else ""


def bars(probabilities: Probabilities) -> str:
    """A bar for each label, likeliest first."""
    rows = "".join(
        f'<li><span class="name">{escape(name)}</span><b>{share:.1%}</b>'
        f'<i style="width:{max(share, _MIN_BAR):.2%}"></i></li>'
        for name, share in probabilities.shares.items()
    )
    return f'<ol class="bars">{rows}</ol>'


def notes(answer: Results | Probabilities) -> str:
    """The notes about an answer; a note that a text was cut is highlighted."""
    cuts = "".join(f'<p class="note cut" role="alert">{escape(line)}</p>' for line in answer.cuts)
    return cuts + "".join(f'<p class="note">{escape(line)}</p>' for line in answer.notes)


def hint(line: str) -> str:
    """A line that explains."""
    return f"<p>{escape(line)}</p>"


def warning(line: str) -> str:
    """The reason why there is no answer."""
    return f'<p class="note warning" role="alert">{escape(line)}</p>'


def header(words: Words, other_page: str) -> str:
    """The page's head, with the link to the page in the other language."""
    return (
        f"<header><div><h1>{escape(words.title)}</h1><p>{escape(words.subtitle)}</p></div>"
        f'<a href="{escape(other_page)}">{escape(words.other)}</a></header>'
    )


def footer(words: Words) -> str:
    """The page's foot."""
    return f"<footer>cnclip · {escape(words.offline)}</footer>"


def _tile(tile: Tile, words: Words) -> str:
    caption = escape(tile.caption)
    if tile.is_text:
        shown = f"<q>{caption}</q>"
    else:
        shown = _image(tile.image, caption, words)
        shown += f'<b title="{escape(tile.path)}">{caption}</b>'
    return f"<article{_class(tile)}>{shown}{_score(tile, words)}</article>"


def _class(tile: Tile) -> str:
    return ' class="reaches"' if tile.reaches else ""


def _score(tile: Tile, words: Words) -> str:
    if tile.score is None:
        return ""
    share = "" if tile.share is None else f" · {tile.share:.1%}"
    meaning = f' title="{escape(words.reaches)}"' if tile.reaches else ""
    score = format_score(tile.score, tile.threshold)
    return f"<small{meaning}><em>{score}</em>{share}</small>"


def _image(image: Image.Image | None, caption: str, words: Words) -> str:
    """An image that a tap enlarges: a label with a checkbox needs no script for that."""
    if image is None:
        return f'<span class="none">{escape(words.no_image)}</span>'
    tag = f'<img src="{image_url(image, 82)}" alt="{caption}">'
    return f'<label title="{escape(words.enlarge)}"><input type="checkbox">{tag}</label>'
