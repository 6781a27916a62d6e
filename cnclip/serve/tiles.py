"""The answers as HTML, with their pictures in it. All text in it is escaped."""

from __future__ import annotations

import base64
import html
import io

from PIL import Image

from .answers import Probabilities, Results, Tile
from .words import Words

_LEAST_BAR = 0.004


def grid(results: Results, words: Words) -> str:
    """Tiles in a grid, each with its picture or text, caption, score and share."""
    tiles = "".join(_tile(tile, words) for tile in results.tiles)
    return f'<div class="tiles">{tiles}</div>' if tiles else ""


def bars(probabilities: Probabilities) -> str:
    """A bar for each label, likeliest first."""
    rows = "".join(
        f'<li><span class="name">{_text(name)}</span><b>{share:.1%}</b>'
        f'<i style="width:{max(share, _LEAST_BAR):.2%}"></i></li>'
        for name, share in probabilities.shares.items()
    )
    return f'<ol class="bars">{rows}</ol>'


def notes(answer: Results | Probabilities) -> str:
    """What there is to say about an answer; that a text was cut stands out."""
    cuts = "".join(f'<p class="note cut" role="alert">{_text(line)}</p>' for line in answer.cuts)
    return cuts + "".join(f'<p class="note">{_text(line)}</p>' for line in answer.notes)


def hint(line: str) -> str:
    """A line that explains."""
    return f"<p>{_text(line)}</p>"


def warning(line: str) -> str:
    """Why there is no answer."""
    return f'<p class="note warning" role="alert">{_text(line)}</p>'


def header(words: Words, other_page: str) -> str:
    """The page's head, with the link to the page in the other language."""
    return (
        f"<header><div><h1>{_text(words.title)}</h1><p>{_text(words.subtitle)}</p></div>"
        f'<a href="{_text(other_page)}">{_text(words.other)}</a></header>'
    )


def footer(words: Words) -> str:
    """The page's foot."""
    return f"<footer>cnclip · {_text(words.offline)}</footer>"


def _tile(tile: Tile, words: Words) -> str:
    caption = _text(tile.caption)
    if tile.is_text:
        shown = f"<q>{caption}</q>"
    else:
        shown = _picture(tile.picture, caption, words)
        shown += f'<b title="{_text(tile.path)}">{caption}</b>'
    return f"<article{_class(tile)}>{shown}{_score(tile, words)}</article>"


def _class(tile: Tile) -> str:
    return ' class="reaches"' if tile.reaches else ""


def _score(tile: Tile, words: Words) -> str:
    if tile.score is None:
        return ""
    share = "" if tile.share is None else f" · {tile.share:.1%}"
    meaning = f' title="{_text(words.reaches)}"' if tile.reaches else ""
    return f"<small{meaning}><em>{tile.score:.3f}</em>{share}</small>"


def _picture(picture: Image.Image | None, caption: str, words: Words) -> str:
    """A picture that a tap enlarges; a label with a box to tick needs no script for that."""
    if picture is None:
        return f'<span class="none">{_text(words.no_picture)}</span>'
    image = f'<img src="{_data_url(picture)}" alt="{caption}">'
    return f'<label title="{_text(words.enlarge)}"><input type="checkbox">{image}</label>'


def _data_url(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=82)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _text(value: str) -> str:
    return html.escape(value.encode("utf-8", "replace").decode())
