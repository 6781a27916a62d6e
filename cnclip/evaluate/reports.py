"""The results of evaluations."""

from __future__ import annotations

import json
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
from .confusion_table import notebook_html
from .words import WORDS

RECALLS = ("R@1", "R@5", "R@10", "MR")


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of an evaluation.

    Attributes:
        dataset: The name of the data set.
        model: The name of the checkpoint that the model was converted from, else its file's name.
        precision: The precision of the embeddings.
        images: Number of images that could be used.
        problems: Rows that could not be used, or were used in spite of a fault.
    """

    dataset: str
    model: str
    precision: str
    images: int
    problems: list[Problem] = field(repr=False)

    @property
    def skipped(self) -> int:
        """Number of rows that were skipped."""
        return sum(problem.skipped for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `report.json`."""
        problems = [
            {"where": str(p.where), "reason": p.reason, "skipped": p.skipped} for p in self.problems
        ]
        values = {name: value for name, value in vars(self).items() if name != "problems"}
        return values | {"skipped": self.skipped, "problems": problems, "cnclip": __version__}

    def write(self, folder: Path) -> None:
        """Write `report.json`.

        Raises:
            OSError: the file cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False)
        with replaced_atomically(folder / "report.json") as temporary:
            # Lone surrogates, of names that are not UTF-8, become escapes of JSON.
            temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


@dataclass(frozen=True, kw_only=True)
class RetrievalReport(Report):
    """The result of an evaluation of retrieval.

    Attributes:
        split: The split of the data set.
        text_to_image: {"R@1", "R@5", "R@10", "MR"} in per cent of the texts that search images;
            None if no text names an image.
        image_to_text: {"R@1", "R@5", "R@10", "MR"} in per cent of the images that search texts;
            None if no text names an image.
        texts: Number of texts that can be found.
        queries: {"text_to_image", "image_to_text"}: number of queries that have a relevant
            candidate.
        truncated: Number of texts that are longer than the model's context, and were truncated.
        unknown: Number of texts of unknown characters only, which the model cannot tell apart.
        normalized: Whether texts were put in lower case with straight quotes.
        published: The authors' figures for this data set and size of model, or None.
        predictions: (text id, image ids) of each text, best first, at most 10.
        predictions_of_images: (image id, text ids) of each image, best first, at most 10.
    """

    split: str
    text_to_image: dict[str, float] | None
    image_to_text: dict[str, float] | None
    texts: int
    queries: dict[str, int]
    truncated: int
    unknown: int
    normalized: bool
    published: dict[str, Any] | None
    predictions: list[tuple[Id, list[Id]]] = field(repr=False)
    predictions_of_images: list[tuple[Id, list[Id]]] = field(repr=False)

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
        """Return the content of `report.json`, without the predictions, which have files."""
        values = super().to_dict()
        del values["predictions"], values["predictions_of_images"]
        values["normalized_texts"] = values.pop("normalized")
        values["truncated_texts"] = values.pop("truncated")
        values["unknown_texts"] = values.pop("unknown")
        return values


@dataclass(frozen=True, kw_only=True)
class ZeroShotReport(Report):
    """The result of an evaluation of zero-shot classification. Notebooks show it as a table.

    Attributes:
        labels: The names of the classes.
        templates: The templates of their texts.
        top1: Per cent of the images whose class came first.
        top5: Per cent of the images whose class is among the first five; None if there are fewer
            than six classes.
        mean_per_class: The mean of the classes' top-1 accuracies, in per cent, over the classes
            that have images.
        per_class: The top-1 accuracy of each class in per cent; None for a class without images.
        confusion: int64 [labels, labels]: images of a class (row) by predicted class (column).
    """

    labels: list[str]
    templates: list[str]
    top1: float
    top5: float | None
    mean_per_class: float
    per_class: dict[str, float | None]
    confusion: NDArray[np.int64] = field(repr=False)

    def figures(self, words: Words) -> dict[str, float]:
        """Return the accuracies in per cent, by their names in a language."""
        figures = {
            "top-1": self.top1,
            "top-5": self.top5,
            words.mean_per_class: self.mean_per_class,
        }
        return {name: value for name, value in figures.items() if value is not None}

    def _repr_html_(self) -> str:
        words = WORDS[locale_language()]
        heading = [f"{name} {value:.1f} %" for name, value in self.figures(words).items()]
        if self.skipped:
            heading.append(f"{words.skipped} {self.skipped}")
        subtitle = words.classified.format(**vars(self) | {"templates": len(self.templates)})
        return notebook_html(" · ".join(heading), subtitle, self.per_class, self.confusion, words)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `report.json`."""
        values = super().to_dict() | {"confusion": self.confusion.tolist()}
        del values["labels"]  # the keys of per_class
        return values


def model_name(pipeline: MultiModalEmbeddingPipeline) -> str:
    """Return the name of the checkpoint that a model was converted from, else its file's name."""
    source = pipeline.model.info.metadata.get("source", {})
    return str(source.get("name") or pipeline.model.info.path.name)
