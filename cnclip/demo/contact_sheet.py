"""Draws a contact sheet: one row per text, with its best images, their labels and scores."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from ..assets import asset_path
from . import Match, open_gallery_image

FONT = "NotoSansSC-Regular-subset.ttf"
TITLE = "以文搜图"

IMAGE = 96
CARD = 116
GUTTER = 16
MARGIN = 48
QUERY_COLUMN = 196
HEADER = 120
LABEL_HEIGHT = 52
ROW_GAP = 26
"""Sizes in pixels. `IMAGE` is the size of the gallery's images, so that none is enlarged."""

BACKGROUND = "#f7f6f3"
CARD_FILL = "#ffffff"
CARD_EDGE = "#e4e1da"
FIRST_EDGE = "#d9480f"
RULE = "#e4e1da"
INK = "#22201c"
SOFT_INK = "#5d5a53"
FAINT_INK = "#8f8b82"

ROW = CARD + LABEL_HEIGHT


@functools.cache
def load_font(size: int) -> ImageFont.FreeTypeFont:
    """The bundled font, at `size` pixels. It draws Chinese on machines without fonts."""
    path = asset_path("fonts") / FONT
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def sheet_size(answers: Sequence[Sequence[Match]]) -> tuple[int, int]:
    """The width and height in pixels of the sheet for some answers."""
    columns = max(map(len, answers))
    width = 2 * MARGIN + QUERY_COLUMN + columns * CARD + (columns - 1) * GUTTER
    height = HEADER + len(answers) * (ROW + ROW_GAP) + MARGIN - ROW_GAP
    return width, height


def draw_contact_sheet(
    queries: Sequence[str], answers: Sequence[Sequence[Match]], subtitle: str
) -> Image.Image:
    """Draw a contact sheet.

    Args:
        queries: The texts, one per row.
        answers: The matches of each text, best first; at least one text has a match.
        subtitle: A line below the title.

    Returns:
        An RGB image of `sheet_size(answers)`.

    Raises:
        ValueError: there is no match to draw, or not one answer per text.
        ImageError: an image cannot be read anymore.
    """
    if len(queries) != len(answers) or not any(answers):
        raise ValueError("expected an answer for each text, and at least one match")
    sheet = Image.new("RGB", sheet_size(answers), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 64), TITLE, INK, load_font(32), anchor="ls")
    draw.text((MARGIN, 92), _drawable(subtitle), FAINT_INK, load_font(15), anchor="ls")

    top = HEADER
    for number, (query, matches) in enumerate(zip(queries, answers, strict=True)):
        if number:
            middle = top - ROW_GAP // 2 - 1
            draw.line((MARGIN, middle, sheet.width - MARGIN, middle), RULE)
        _draw_query(draw, query, MARGIN, top)
        left = MARGIN + QUERY_COLUMN
        for rank, match in enumerate(matches):
            _draw_match(sheet, draw, match, left, top, first=rank == 0)
            left += CARD + GUTTER
        top += ROW + ROW_GAP
    return sheet


def _draw_query(draw: ImageDraw.ImageDraw, query: str, left: int, top: int) -> None:
    """Draw the query, centred next to its images, in as many lines as fit."""
    font = load_font(24)
    width, line_height = QUERY_COLUMN - 24, 34
    lines = _wrap(_drawable(query), font, width)
    fit = CARD // line_height
    if len(lines) > fit:
        lines = [*lines[: fit - 1], _shorten("".join(lines[fit - 1 :]), font, width)]
    middle = top + CARD / 2 - line_height * (len(lines) - 1) / 2
    for number, line in enumerate(lines):
        draw.text((left, middle + number * line_height), line, INK, font, anchor="lm")


def _draw_match(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    match: Match,
    left: int,
    top: int,
    *,
    first: bool,
) -> None:
    """Draw a card with the image, and its label and score below."""
    card = _draw_card(FIRST_EDGE, 2) if first else _draw_card(CARD_EDGE, 1)
    sheet.paste(card, (left, top))
    image = open_gallery_image(match.image)
    image.thumbnail((IMAGE, IMAGE), Image.Resampling.LANCZOS)
    sheet.paste(image, (left + (CARD - image.width) // 2, top + (CARD - image.height) // 2))
    middle = left + CARD / 2
    font = load_font(15)
    label = _shorten(_drawable(match.image.label), font, CARD)
    draw.text((middle, top + CARD + 20), label, SOFT_INK, font, anchor="ms")
    draw.text(
        (middle, top + CARD + 39), f"{match.score:.3f}", FAINT_INK, load_font(13), anchor="ms"
    )


@functools.cache
def _draw_card(edge: str, thickness: int) -> Image.Image:
    """An empty card, drawn large and shrunk because Pillow's round corners are jagged."""
    scale = 4
    large = Image.new("RGB", (CARD * scale, CARD * scale), BACKGROUND)
    ImageDraw.Draw(large).rounded_rectangle(
        (0, 0, CARD * scale - 1, CARD * scale - 1),
        10 * scale,
        CARD_FILL,
        edge,
        thickness * scale,
    )
    return large.resize((CARD, CARD), Image.Resampling.BOX)


def _drawable(text: str) -> str:
    """The text on one line, without surrogates, which no font has."""
    return " ".join(text.encode(errors="replace").decode().split())


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines no wider than `width`, broken between any two characters, as usual in Chinese."""
    lines = [""]
    for character in text:
        if lines[-1] and font.getlength(lines[-1] + character) > width:
            lines.append("")
        lines[-1] += character
    return lines


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, or its beginning and an ellipsis, no wider than `width`."""
    if font.getlength(text) <= width:
        return text
    end = len(text)
    while end and font.getlength(text[:end] + "…") > width:
        end -= 1
    return text[:end] + "…"
