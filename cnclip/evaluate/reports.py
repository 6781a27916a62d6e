"""The results of evaluations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._files import replaced_atomically
from .._locale import Words, locale_language
from ..datasets import Problem
from ..pipelines import MultiModalEmbeddingPipeline
from ..sources import Id
from ..version import __version__
from .confusion_table import confusion_table, notebook_html
from .words import WORDS

RECALLS = ("R@1", "R@5", "R@10", "MR")


@dataclass(frozen=True)
class RetrievalReport:
    """The result of an evaluation of retrieval.

    Attributes:
        text_to_image: {"R@1", "R@5", "R@10", "MR"} in per cent of the texts that search images;
            None if no text names an image.
        image_to_text: {"R@1", "R@5", "R@10", "MR"} in per cent of the images that search texts;
            None if no text names an image.
        texts: Number of texts that can be found.
        images: Number of images that can be found.
        queries: {"text_to_image", "image_to_text"}: number of queries that have a relevant
            candidate.
        truncated: Number of texts that are longer than the model's context, and were truncated.
        normalized: Whether texts were put in lower case with straight quotes.
        published: The authors' figures for this data set and size of model, or None.
        problems: Rows that could not be used, or were used in spite of a fault.
        predictions: (text id, image ids) of each text, best first, at most 10.
        predictions_of_images: (image id, text ids) of each image, best first, at most 10.
    """

    dataset: str
    split: str
    model: str
    precision: str
    text_to_image: dict[str, float] | None
    image_to_text: dict[str, float] | None
    texts: int
    images: int
    queries: dict[str, int]
    truncated: int
    normalized: bool
    published: dict[str, Any] | None
    problems: list[Problem] = field(repr=False)
    predictions: list[tuple[Id, list[Id]]] = field(repr=False)
    predictions_of_images: list[tuple[Id, list[Id]]] = field(repr=False)

    @property
    def skipped(self) -> int:
        """Number of rows that were skipped."""
        return _skipped(self.problems)

    def table(self, words: Words) -> list[list[str]]:
        """Return a heading, and rows with a title and the recalls, measured and published.

        Args:
            words: The words of a language, see `words.py`.
        """
        rows = [["", *RECALLS]]
        for name in ("text_to_image", "image_to_text"):
            measured = getattr(self, name)
            if measured is None:
                continue
            figures = {getattr(words, name): measured}
            for setting, published in ((self.published or {}).get(name) or {}).items():
                title = words.published.format(setting=getattr(words, setting))
                figures[f"  {title}"] = published
            for title, recall in figures.items():
                rows.append([title, *(f"{recall[c]:.2f}" if c in recall else "" for c in RECALLS)])
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `report.json`."""
        return {
            "text_to_image": self.text_to_image,
            "image_to_text": self.image_to_text,
            "dataset": self.dataset,
            "split": self.split,
            "model": self.model,
            "texts": self.texts,
            "images": self.images,
            "skipped": self.skipped,
            "queries": self.queries,
            "precision": self.precision,
            "normalized_texts": self.normalized,
            "truncated_texts": self.truncated,
            "published": self.published,
            "problems": _problems_as_json(self.problems),
            "cnclip": __version__,
        }


@dataclass(frozen=True)
class ZeroShotReport:
    """The result of an evaluation of zero-shot classification. Notebooks show it as a table.

    Attributes:
        top1: Per cent of the images whose class came first.
        top5: Per cent of the images whose class is among the first five; None if there are fewer
            than six classes.
        mean_per_class: The mean of the classes' top-1 accuracies, in per cent, over the classes
            that have images.
        per_class: The top-1 accuracy of each class in per cent; None for a class without images.
        confusion: int64 [labels, labels]: images of a class (row) by predicted class (column).
        images: Number of images that were classified.
        problems: Images that could not be used.
    """

    dataset: str
    model: str
    precision: str
    labels: list[str]
    templates: list[str]
    top1: float
    top5: float | None
    mean_per_class: float
    per_class: dict[str, float | None]
    confusion: NDArray[np.int64] = field(repr=False)
    images: int
    problems: list[Problem] = field(repr=False)

    @property
    def skipped(self) -> int:
        """Number of images that were skipped."""
        return _skipped(self.problems)

    def _repr_html_(self) -> str:
        words = WORDS[locale_language()]
        figures = [f"top-1 {self.top1:.1f} %"]
        if self.top5 is not None:
            figures.append(f"top-5 {self.top5:.1f} %")
        figures.append(f"{words.mean_per_class} {self.mean_per_class:.1f} %")
        if self.skipped:
            figures.append(f"{words.skipped} {self.skipped}")
        subtitle = words.classified.format(
            dataset=self.dataset,
            images=self.images,
            model=self.model,
            precision=self.precision,
            templates=len(self.templates),
        )
        accuracies = list(self.per_class.values())
        table = confusion_table(self.labels, self.confusion, accuracies, words)
        return notebook_html(" · ".join(figures), subtitle, table)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `report.json`."""
        return {
            "top1": self.top1,
            "top5": self.top5,
            "mean_per_class": self.mean_per_class,
            "dataset": self.dataset,
            "model": self.model,
            "precision": self.precision,
            "images": self.images,
            "skipped": self.skipped,
            "per_class": self.per_class,
            "templates": self.templates,
            "confusion": self.confusion.tolist(),
            "problems": _problems_as_json(self.problems),
            "cnclip": __version__,
        }


def model_name(pipeline: MultiModalEmbeddingPipeline) -> str:
    """Return the name of the checkpoint that a model was converted from, else its file's name."""
    source = pipeline.model.info.metadata.get("source", {})
    return str(source.get("name") or pipeline.model.info.path.name)


def write_report(report: RetrievalReport | ZeroShotReport, folder: Path) -> None:
    """Write `report.json`.

    Raises:
        OSError: the file cannot be written.
    """
    text = json.dumps(report.to_dict(), indent=1, ensure_ascii=False)
    with replaced_atomically(folder / "report.json") as temporary:
        # Lone surrogates, of names that are not UTF-8, become escapes of JSON.
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def _skipped(problems: Sequence[Problem]) -> int:
    return sum(problem.skipped for problem in problems)


def _problems_as_json(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    return [{"where": str(p.where), "reason": p.reason, "skipped": p.skipped} for p in problems]
