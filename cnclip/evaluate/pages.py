"""The page of a retrieval report: images with the texts that find them best and worst."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import _html
from .._files import replaced_atomically
from .._html import escape, image_url
from .._locale import Words, locale_language
from ..datasets import Problems, RetrievalData, TextRow
from ..errors import ImageError
from ..preprocessors.decoding import decode_image
from ..sources import Id
from .reports import RetrievalReport
from .topk import BLOCK_ROWS
from .words import WORDS

# Images in each of the two parts of the page.
CARDS = 24
# Images that are shown of those that a text found.
FOUND = 3
THUMBNAIL = 144


@dataclass(frozen=True)
class EmbeddedSplit:
    """The texts and images of an evaluation, with float32 [n, d], rows of unit length, of each."""

    texts: list[TextRow]
    text_vectors: NDArray[np.float32]
    image_ids: list[Id]
    image_vectors: NDArray[np.float32]


@dataclass(frozen=True)
class _Query:
    """A text that should find an image.

    Attributes:
        text: The index of the text.
        score: The cosine of the text and the image.
        margin: `score` less the cosine of the best wrong image. At most 0 if that one is first.
    """

    text: int
    score: float
    margin: float


@dataclass(frozen=True)
class _Card:
    """An image with the text that finds it best and the text that finds it worst."""

    image_id: Id
    best: _Query
    worst: _Query

    @property
    def queries(self) -> list[_Query]:
        """One query if both are the same."""
        return [self.best] if self.worst is self.best else [self.best, self.worst]


def write_page(
    path: Path, report: RetrievalReport, data: RetrievalData, split: EmbeddedSplit
) -> None:
    """Write the page of a retrieval report, in the language of the user's locale.

    Images that are shown are read from the data set again.

    Raises:
        OSError: the file cannot be written.
    """
    language = locale_language()
    words = WORDS[language]
    cards = sorted(_cards(report, split), key=lambda card: card.worst.margin)
    hardest = cards[:CARDS]
    easiest = sorted(cards[CARDS:], key=lambda card: -card.best.margin)[:CARDS]
    page = _Page(report, data, split, hardest + easiest, words)
    sections = page.section(words.hardest, hardest) + page.section(words.easiest, easiest)
    body = _summary(report, words) + sections
    title = f"{report.dataset} · {report.split} · {report.model}"
    with replaced_atomically(path) as temporary:
        html = _html.page(title, _STYLE, body, language)
        temporary.write_text(html, encoding="utf-8", errors="backslashreplace")


class _Page:
    """Renders cards."""

    def __init__(
        self,
        report: RetrievalReport,
        data: RetrievalData,
        split: EmbeddedSplit,
        cards: list[_Card],
        words: Words,
    ) -> None:
        self._report, self._texts, self._words = report, split.texts, words
        queries = [query for card in cards for query in card.queries]
        shown = {card.image_id for card in cards}
        for query in queries:
            shown |= set(self._found(query))
        self._thumbnails = _thumbnails(data, shown)
        self._ranks = _ranks(queries, split)

    def section(self, title: str, cards: Iterable[_Card]) -> str:
        """A heading with its cards; empty if there are none."""
        content = "".join(map(self._card, cards))
        return f"<h2>{title}</h2><section>{content}</section>" if content else ""

    def _card(self, card: _Card) -> str:
        names = (self._words.best, self._words.worst)
        queries = "".join(map(self._query, names, card.queries))
        return (
            f'<article><figure><img src="{self._thumbnails.get(card.image_id, "")}" alt="">'
            f"<figcaption>{escape(card.image_id)}</figcaption></figure>"
            f"<div>{queries}</div></article>"
        )

    def _query(self, name: str, query: _Query) -> str:
        text = self._texts[query.text]
        rank = self._words.rank.format(
            rank=self._ranks[query.text], images=self._report.images, cosine=query.score
        )
        found = "".join(
            f'<img src="{self._thumbnails.get(one, "")}" alt="{escape(one)}" title="{escape(one)}"'
            f"{' class=right' if one in text.image_ids else ''}>"
            for one in self._found(query)
        )
        return (
            f"<div class=query><p><small>{name}</small> {escape(text.text)}<br>"
            f"<small>{rank}</small></p><div class=found>{found}</div></div>"
        )

    def _found(self, query: _Query) -> list[Id]:
        return self._report.predictions[query.text][1][:FOUND]


def _cards(report: RetrievalReport, split: EmbeddedSplit) -> list[_Card]:
    """Cards of the images that a text names."""
    place = {image_id: index for index, image_id in enumerate(split.image_ids)}
    of_image: dict[Id, tuple[_Query, _Query]] = {}
    for index, text in enumerate(split.texts):
        if not text.image_ids:
            continue
        vector = split.text_vectors[index]
        right = split.image_vectors[[place[image_id] for image_id in text.image_ids]] @ vector
        found = report.predictions[index][1]
        wrong = next((one for one in found if one not in text.image_ids), None)
        rival = -1.0 if wrong is None else float(split.image_vectors[place[wrong]] @ vector)
        for image_id, score in zip(text.image_ids, right.tolist(), strict=True):
            query = _Query(index, score, score - rival)
            best, worst = of_image.get(image_id, (query, query))
            of_image[image_id] = (
                query if query.margin > best.margin else best,
                query if query.margin < worst.margin else worst,
            )
    return [_Card(image_id, *queries) for image_id, queries in of_image.items()]


def _ranks(queries: list[_Query], split: EmbeddedSplit) -> dict[int, int]:
    """The rank of each query's image among all images, from 1, by the index of the text."""
    indices = [query.text for query in queries]
    scores = np.array([query.score for query in queries], np.float32)
    above = np.zeros(len(queries), np.int64)
    for start in range(0, len(split.image_vectors), BLOCK_ROWS):
        block = split.text_vectors[indices] @ split.image_vectors[start : start + BLOCK_ROWS].T
        # The cosine of the same image may differ in the last bit between blocks.
        above += (block > scores[:, None] + 1e-6).sum(axis=1)
    return {index: int(count) + 1 for index, count in zip(indices, above, strict=True)}


def _thumbnails(data: RetrievalData, wanted: set[Id]) -> dict[Id, str]:
    """Images as data URLs, without those that were changed since and cannot be read."""
    found: dict[Id, str] = {}
    for row in data.images(Problems()):
        if len(found) == len(wanted):
            break
        if row.image_id not in wanted:
            continue
        with contextlib.suppress(ImageError):
            image = decode_image(row.image.read(), turned=data.turns_images)
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            found[row.image_id] = image_url(image, 75)
    return found


def _summary(report: RetrievalReport, words: Words) -> str:
    heading, *rows = report.table(words)
    body = "".join(
        f"<tr><th>{escape(title)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for title, *cells in rows
    )
    heads = "".join(f"<th>{name}</th>" for name in heading)
    normalization = words.normalized if report.normalized else words.raw
    values = {"normalization": normalization, "skipped": report.skipped}
    summary = words.summary.format(**vars(report) | values)
    return (
        f"<h1>{escape(report.dataset)} · {escape(report.split)}</h1><p>{escape(summary)}</p>"
        f"<table><tr>{heads}</tr>{body}</table>"
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
