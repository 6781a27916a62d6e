"""A page for people: images with the queries that find them best and worst. One HTML file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .. import _html
from .._html import escape, image_url
from ..datasets import Problems, RetrievalData, TextRow
from ..datasets.ids import Id
from ..datasets.retrieval import open_image
from ..errors import ImageError
from .published import SETTINGS
from .search import BLOCK_ROWS

if TYPE_CHECKING:
    from .retrieve import RetrievalReport

# Images in each of the two parts, and what a query found that is shown beside it.
CARDS = 24
FOUND = 3
THUMBNAIL = 144


@dataclass(frozen=True)
class _Query:
    """A text beside one of its images."""

    text: int  # its index
    score: float  # of the text and its best image
    margin: float  # how much more than the best wrong image has, at most 0 when that comes first


@dataclass(frozen=True)
class _Card:
    image_id: Id
    best: _Query
    worst: _Query


def write_page(
    report: RetrievalReport,
    data: RetrievalData,
    texts: list[TextRow],
    text_rows: NDArray[np.float32],
    image_ids: list[Id],
    image_rows: NDArray[np.float32],
    path: Path,
) -> None:
    """Write the page of a retrieval report.

    Args:
        report: The RetrievalReport.
        data: Where the images are read from again.
        texts: As they were evaluated.
        text_rows: float32 [texts, d].
        image_ids: As they were evaluated.
        image_rows: float32 [images, d].
        path: The file.

    Raises:
        OSError: it cannot be written.
    """
    place = {image_id: index for index, image_id in enumerate(image_ids)}
    cards = _cards(report.predictions, texts, text_rows, place, image_rows)
    cards.sort(key=lambda card: card.worst.margin)
    worst = cards[:CARDS]
    best = sorted(cards[CARDS:], key=lambda card: -card.best.margin)[:CARDS]
    shown = {card.image_id for card in worst + best}
    for card in worst + best:
        for query in (card.best, card.worst):
            shown |= set(report.predictions[query.text][1][:FOUND])
    thumbnails = _thumbnails(data, shown)
    ranks = _ranks(
        [q for card in worst + best for q in (card.best, card.worst)], text_rows, image_rows
    )

    def card_of(card: _Card) -> str:
        lines = []
        queries = [("最好 best", card.best)]
        if card.worst is not card.best:
            queries.append(("最差 worst", card.worst))
        for label, query in queries:
            found = "".join(
                f'<img src="{thumbnails.get(one, "")}" alt="{escape(one)}" title="{escape(one)}"'
                f"{' class=right' if one in texts[query.text].image_ids else ''}>"
                for one in report.predictions[query.text][1][:FOUND]
            )
            lines.append(
                f"<div class=query><p><small>{label}</small> {escape(texts[query.text].text)}<br>"
                f"<small>rank {ranks[query.text]} of {report.images}, "
                f"cosine {query.score:.3f}</small></p><div class=found>{found}</div></div>"
            )
        return (
            f'<article><figure><img src="{thumbnails.get(card.image_id, "")}" alt="">'
            f"<figcaption>{escape(card.image_id)}</figcaption></figure>"
            f"<div>{''.join(lines)}</div></article>"
        )

    def part(title: str, some: Iterable[_Card]) -> str:
        content = "".join(map(card_of, some))
        return f"<h2>{title}</h2><section>{content}</section>" if content else ""

    body = (
        _summary(report)
        + part("最难找到的图片 Images that are hardest to find", worst)
        + part("最容易找到的图片 Images that are easiest to find", best)
    )
    title = f"{report.dataset} · {report.split} · {report.model}"
    _html.write_page(path, title, _STYLE, body, "zh")


def _cards(
    predictions: list[tuple[Id, list[Id]]],
    texts: list[TextRow],
    text_rows: NDArray[np.float32],
    place: dict[Id, int],
    image_rows: NDArray[np.float32],
) -> list[_Card]:
    """Each image that a text names, with the texts that find it best and worst."""
    of_image: dict[Id, tuple[_Query, _Query]] = {}
    for index, text in enumerate(texts):
        if not text.image_ids:
            continue
        right = image_rows[[place[image_id] for image_id in text.image_ids]] @ text_rows[index]
        wrong = next((one for one in predictions[index][1] if one not in text.image_ids), None)
        rival = -1.0 if wrong is None else float(image_rows[place[wrong]] @ text_rows[index])
        for image_id, score in zip(text.image_ids, right.tolist(), strict=True):
            query = _Query(index, score, score - rival)
            best, worst = of_image.get(image_id, (query, query))
            of_image[image_id] = (
                query if query.margin > best.margin else best,
                query if query.margin < worst.margin else worst,
            )
    return [_Card(image_id, *queries) for image_id, queries in of_image.items()]


def _ranks(
    queries: list[_Query], text_rows: NDArray[np.float32], image_rows: NDArray[np.float32]
) -> dict[int, int]:
    """The rank of each query's image among all, from 1."""
    indices = [query.text for query in queries]
    scores = np.array([query.score for query in queries], np.float32)
    above = np.zeros(len(queries), np.int64)
    for start in range(0, len(image_rows), BLOCK_ROWS):
        block = text_rows[indices] @ image_rows[start : start + BLOCK_ROWS].T
        # An image's product with itself may differ in the last bit from block to block.
        above += (block > scores[:, None] + 1e-6).sum(axis=1)
    return {index: int(count) + 1 for index, count in zip(indices, above, strict=True)}


def _thumbnails(data: RetrievalData, wanted: set[Id]) -> dict[Id, str]:
    """Images as data URLs."""
    found: dict[Id, str] = {}
    for row in data.images(Problems()):
        if len(found) == len(wanted):
            break
        if row.image_id not in wanted:
            continue
        try:
            image = open_image(row, turned=data.turns_images)
            image.thumbnail((THUMBNAIL, THUMBNAIL))
        except (ImageError, OSError, ValueError):  # it was readable a moment ago
            continue
        found[row.image_id] = image_url(image, 75)
    return found


def _summary(report: RetrievalReport) -> str:
    rows = []
    for title, name in (
        ("以文搜图 text to image", "text_to_image"),
        ("以图搜文 image to text", "image_to_text"),
    ):
        measured = getattr(report, name)
        if measured is None:
            continue
        rows.append((title, measured))
        for setting, figures in ((report.published or {}).get(name) or {}).items():
            rows.append((f"published by the authors, {SETTINGS[setting]}", figures))
    columns = ("R@1", "R@5", "R@10", "MR")
    body = "".join(
        f"<tr><th>{escape(title)}</th>"
        + "".join(f"<td>{figures[c]:.2f}</td>" if c in figures else "<td></td>" for c in columns)
        + "</tr>"
        for title, figures in rows
    )
    heads = "".join(f"<th>{column}</th>" for column in columns)
    words = "lower case, straight quotes" if report.normalized else "as they are"
    return (
        f"<h1>{escape(report.dataset)} · {escape(report.split)}</h1>"
        f"<p>{escape(report.model)}, {report.precision}; {report.images} images, {report.texts} "
        f"texts ({words}; {report.truncated} were cut), {report.skipped} rows left out</p>"
        f"<table><tr><th></th>{heads}</tr>{body}</table>"
    )


_STYLE = """\
table { border-collapse: collapse } td, th { padding: 4px 14px; text-align: right }
th:first-child { text-align: left; font-weight: normal }
tr + tr { border-top: 1px solid #8884 }
section { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)) }
article { display: flex; gap: 12px; border: 1px solid #8884 }
article { border-radius: 8px; padding: 12px }
figure { margin: 0; width: 120px; flex: none; overflow-wrap: anywhere }
figure img { max-width: 120px; max-height: 120px } .query p { margin: 0 0 4px }
.query + .query { margin-top: 10px } .found { display: flex; gap: 4px }
.found img { width: 56px; height: 56px; object-fit: contain; border: 2px solid transparent }
.found img.right { border-color: #2b8a3e } small { opacity: .7 }
"""
