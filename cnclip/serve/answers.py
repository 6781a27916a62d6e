"""The functions of the page: hits for a query, probabilities of labels."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from .._locale import Words
from .._text import is_blank
from ..pipelines.scores import probabilities
from ..preprocessors.multi_modal import CLIPPreprocessor
from ..preprocessors.text import count_texts
from ..search import Hit
from ..search.collection import query_text
from .collections import Searchable

MAX_WORDS = 75
"""The limit of a query, as in the model card's widget."""
MAX_CHARACTERS = 1000
MAX_LABELS = 100
MAX_RESULTS = 60

# Each character is a separate word: Han, kana, and the characters between these blocks.
_CJK = "\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_CJK += "\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_CJK}]|(?:(?![{_CJK}])\w)+")
_BETWEEN_LABELS = re.compile(r"[\n\r,，、;；]+")
# Characters of a cut text that a note repeats.
_KEPT_SHOWN = 12


class Refused(Exception):
    """The page's input cannot be used. The message is in the page's language."""


@dataclass(frozen=True)
class Tile:
    """One result.

    Attributes:
        caption: The caption, or the text.
        path: The file or URL.
        image: A thumbnail; None for a text, and if the image cannot be read.
        is_text: Whether the result is a text.
        score: The cosine similarity to the query; None without a query.
        share: The probability among the results, if known.
        threshold: The suggested threshold, if there is one.
    """

    caption: str
    path: str
    image: Image.Image | None
    is_text: bool
    score: float | None = None
    share: float | None = None
    threshold: float | None = None

    @property
    def reaches(self) -> bool:
        """Whether the score reaches the suggested threshold."""
        return (
            self.score is not None and self.threshold is not None and self.score >= self.threshold
        )


@dataclass(frozen=True)
class Results:
    """The results, best first, notes about them, and about what the model cannot see of a text."""

    tiles: list[Tile]
    notes: list[str]
    cuts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Probabilities:
    """Labels with their probabilities, likeliest first, and notes as in `Results`."""

    shares: dict[str, float]
    notes: list[str]
    cuts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Cut:
    """A text that is longer than the model's limit.

    Attributes:
        ids: Its number of tokens, including the two at its ends.
        limit: The model's limit.
        kept: The part of the text that the model reads.
    """

    ids: int
    limit: int
    kept: str

    @property
    def end(self) -> str:
        """The last characters of `kept`."""
        return self.kept if len(self.kept) <= _KEPT_SHOWN else "…" + self.kept[-_KEPT_SHOWN:]


def search(
    searchable: Searchable,
    words: Words,
    text: str = "",
    image: Path | None = None,
    *,
    weight: float = 0.5,
    count: int = 12,
) -> Results:
    """Find the images or texts that are most similar to a text, an image, or both.

    Args:
        searchable: The collection.
        words: The texts of the page.
        text: The query, at most 75 words; blank for none.
        image: An uploaded file, or None.
        weight: The weight of the text in a query of text and image.
        count: The maximum number of results.

    Raises:
        Refused: text and image are missing, the text is too long, or the file is not an image.
    """
    text = _clean(text)
    if not text and image is None:
        raise Refused(words.nothing_asked)
    _check_length(text, words)
    opened = None if image is None else _opened(searchable, image, words)
    answer = searchable.collection.find(
        searchable.pipeline,
        text or None,
        opened,
        k=min(max(int(count), 1), MAX_RESULTS),
        weight=min(max(float(weight), 0.0), 1.0),
    )
    cuts = _cuts(searchable, text, words) if text else []
    notes = []
    threshold = answer.suggested
    hits = searchable.placed(answer.hits)
    if not hits:
        notes.append(words.found_nothing)
    elif threshold is not None:
        above = sum(hit.score >= threshold for hit in hits)
        found = len(hits)
        notes.append(words.reach.format(above=above, count=found, threshold=threshold))
    return Results(_tiles(searchable, hits, threshold), notes, cuts)


def glimpse(searchable: Searchable, words: Words, count: int = 12) -> Results:
    """Some of the collection, shown before the first query."""
    hits = searchable.glimpse(count)
    images = searchable.images(hits)
    tiles = [
        Tile(searchable.caption(hit), hit.path, image, hit.text is not None)
        for hit, image in zip(hits, images, strict=True)
    ]
    return Results(tiles, [f"{words.glimpse} · {contents(searchable, words)}"])


def label(searchable: Searchable, words: Words, image: Path | None, labels: str) -> Probabilities:
    """Compute the probabilities of labels for an image, as the model card does.

    Args:
        searchable: The collection whose model is used.
        words: The texts of the page.
        image: An uploaded file.
        labels: Separated by line ends, commas or semicolons, Western or Chinese.

    Raises:
        Refused: the image is missing or cannot be read, there are fewer than two labels or more
            than 100, or a label is too long.
    """
    if image is None:
        raise Refused(words.no_label_image)
    given = split_labels(labels)
    some = list(dict.fromkeys(given))
    if len(some) < 2:
        raise Refused(words.too_few_labels)
    if len(some) > MAX_LABELS:
        raise Refused(words.too_many_labels.format(labels=len(some), limit=MAX_LABELS))
    for one in some:
        _check_length(one, words)
    opened = _opened(searchable, image, words)
    pipeline = searchable.pipeline
    answer = pipeline.forward({"img": opened, "text": some})
    rows = [np.asarray(answer[key], np.float32) for key in ("img_embedding", "text_embedding")]
    shares = probabilities(rows[0] @ rows[1].T, float(pipeline.model.temperature))[0]
    order = np.argsort(-shares, kind="stable")
    notes = [words.dropped] if len(some) < len(given) else []
    cuts = []
    for one in some:
        cut = find_cut(pipeline.preprocessor, one)
        begin = one if len(one) <= _KEPT_SHOWN else one[:_KEPT_SHOWN] + "…"
        if count_texts(pipeline.preprocessor, [one]).unknown:
            cuts.append(words.unknown_label.format(label=begin))
        if cut is not None:
            cuts.append(words.cut_label.format(label=begin, limit=cut.limit, kept=cut.end))
    return Probabilities({some[index]: float(shares[index]) for index in order}, notes, cuts)


def contents(searchable: Searchable, words: Words) -> str:
    """The size of the collection, such as "362 images"."""
    collection = searchable.collection
    texts = collection.contents == "texts"
    if len(collection) == 1:
        return str(words.one_text if texts else words.one_image)
    template: str = words.texts if texts else words.images
    return template.format(count=f"{len(collection):,}")


def count_words(text: str) -> int:
    """The number of words: each Chinese character and each run of other letters and digits."""
    return len(_WORD.findall(text))


def split_labels(labels: str) -> list[str]:
    """Split the input into labels, without blank ones."""
    return [one for part in _BETWEEN_LABELS.split(labels) if (one := _clean(part))]


def find_cut(preprocessor: CLIPPreprocessor, text: str) -> Cut | None:
    """The position where the model cuts a text; None if it reads all of it."""
    limit = preprocessor.context_length
    ids = int(preprocessor.tokenize(text, return_lengths=True)[1][0])
    if ids <= limit:
        return None
    # A prefix that ends within a word may have other tokens than the text.
    inside = {at for word in _WORD.finditer(text) for at in range(word.start() + 1, word.end())}
    ends = [at for at in range(1, len(text)) if at not in inside]
    lengths = preprocessor.tokenize([text[:at] for at in ends], return_lengths=True)[1]
    kept = [at for at, length in zip(ends, lengths.tolist(), strict=True) if length <= limit]
    return Cut(ids, limit, text[: max(kept, default=0)].rstrip())


def _cuts(searchable: Searchable, text: str, words: Words) -> list[str]:
    """Notes on what the model cannot see of a query."""
    preprocessor = searchable.pipeline.preprocessor
    query = query_text(searchable.pipeline, text)
    notes = [words.unknown] if count_texts(preprocessor, [query]).unknown else []
    if cut := find_cut(preprocessor, query):
        notes.append(words.cut.format(ids=cut.ids, limit=cut.limit, kept=cut.end))
    return notes


def _tiles(searchable: Searchable, hits: list[Hit], threshold: float | None) -> list[Tile]:
    return [
        Tile(
            searchable.caption(hit),
            hit.path,
            image,
            hit.text is not None,
            hit.score,
            hit.probability,
            threshold,
        )
        for hit, image in zip(hits, searchable.images(hits), strict=True)
    ]


def _opened(searchable: Searchable, image: Path, words: Words) -> Image.Image:
    try:
        return searchable.open(image)
    except MemoryError:
        raise
    except FileNotFoundError as error:
        raise Refused(words.expired) from error
    except Exception as error:  # Pillow's readers raise anything on damaged files.
        raise Refused(words.bad_image) from error


def _check_length(text: str, words: Words) -> None:
    if len(text) > MAX_CHARACTERS:
        characters = f"{len(text):,}"
        raise Refused(
            words.too_many_characters.format(characters=characters, limit=f"{MAX_CHARACTERS:,}")
        )
    number = count_words(text)
    if number > MAX_WORDS:
        raise Refused(words.too_many_words.format(words=number, limit=MAX_WORDS))


def _clean(text: str) -> str:
    """A text from a browser without lone surrogates and outer spaces; empty if it is invisible."""
    text = text.encode("utf-8", "replace").decode().strip()
    return "" if is_blank(text) else text
