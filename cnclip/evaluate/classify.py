"""Zero-shot classification: classes are texts, and an image's class is the nearest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._files import replaced_atomically
from ..bulk import embed_images
from ..datasets import Problem, Problems
from ..datasets.classification import ClassificationData, ClassifiedImage
from ..datasets.retrieval import open_image
from ..errors import DatasetError, InvalidInputError
from ..pipelines import MultiModalEmbeddingPipeline, pipeline
from ..progress import progress
from ..version import __version__
from .retrieve import model_name, normalize_text
from .texts import LABELS, TEMPLATES_OF, read_labels, read_templates, shipped_labels


@dataclass(frozen=True)
class Classified:
    """What an image was taken for.

    Attributes:
        label: The class; None if it is none of these.
        probability: Of that class, or of "none of these".
    """

    label: str | None
    probability: float


class ZeroShotClassifier:
    """Tells which of some classes an image shows, without having been trained for them.

    A class's vector is the mean of the unit vectors of its texts, one for each template, brought
    back to unit length (Radford et al., 2021, section 3.1.4). Probabilities are a softmax over
    the cosines divided by the model's temperature, so that they add up to 1 over the classes: some
    class wins for every image, however little it fits.

    To tell an image of none of these, name what it may be instead: `others=["其他东西", "风景"]`
    are texts that compete with the classes, and the sum of their probabilities is that of "none
    of these". Or refuse faint likenesses: `min_cosine=0.3`. Cosines of images and texts have a
    scale of each model's own, and a narrow one: choose the bound on images of your own, with and
    without the classes, by looking at `cosines`.

    Attributes:
        labels: The classes' names.
        templates: Texts with `{}` for a name.
        others: Names of what is none of them.
        class_vectors: float32 [labels, d], of unit length.
    """

    def __init__(
        self,
        labels: Sequence[str],
        templates: str | Path | Sequence[str] = "generic",
        *,
        model: str | Path | MultiModalEmbeddingPipeline = "emoji-cn",
        others: Sequence[str] = (),
        min_cosine: float | None = None,
        normalize: bool = True,
        **options: Any,
    ) -> None:
        """Embed the classes.

        Args:
            labels: Chinese names of the classes, all different.
            templates: A name of templates that ship (`'generic'`, `'photo'`, `'small'`, `'plain'`),
                a file with one on each line, or texts with `{}` for a name.
            model: An open pipeline, or what `cnclip.pipeline` takes; by default the small model
                that ships, which knows emoji.
            others: Names of what is none of these; they get the same templates.
            min_cosine: An image whose best class has a lower cosine is none of these.
            normalize: Put texts in lower case with straight quotes, as Chinese-CLIP's evaluation.
            **options: Of `cnclip.pipeline`, such as `precision` and `device`.

        Raises:
            InvalidInputError: no labels, a label twice, an empty one, or unusable templates.
        """
        self.labels = _names(labels, "labels")
        self.others = _names(others, "others") if others else []
        if not self.labels:
            raise InvalidInputError("labels: there are none")
        if both := set(self.labels) & set(self.others):
            raise InvalidInputError(f"others: {min(both)!r} is among the labels")
        self.templates = read_templates(templates)
        if not isinstance(model, MultiModalEmbeddingPipeline):
            model = pipeline(model=model, **options)
        elif options:
            raise InvalidInputError(f"{', '.join(options)}: the pipeline is open already")
        self.pipeline = model
        self._min_cosine = min_cosine
        texts = [t.replace("{}", n) for n in self.labels + self.others for t in self.templates]
        if normalize:
            texts = [normalize_text(text) for text in texts]
        rows = np.asarray(model.forward({"text": texts})["text_embedding"], np.float32)
        means = rows.reshape(len(self.labels) + len(self.others), len(self.templates), -1).mean(1)
        vectors = means / np.linalg.norm(means, axis=1, keepdims=True)
        self.class_vectors = vectors[: len(self.labels)]
        self._vectors = vectors

    def cosines(self, images: Any) -> NDArray[np.float32]:
        """Cosines of images and classes.

        Args:
            images: As `pipeline.forward` takes them under 'img', or float [n, d]: embeddings.

        Returns:
            float32 [n, labels].
        """
        return self._all_cosines(images)[:, : len(self.labels)]

    def probabilities(self, images: Any) -> NDArray[np.float32]:
        """Probabilities of the classes: softmax of the cosines divided by the temperature.

        Args:
            images: As for `cosines`.

        Returns:
            float32 [n, labels]. Rows add up to 1, less the probability of the `others`.
        """
        probabilities: NDArray[np.float32] = self._softmax(self._all_cosines(images))
        return probabilities[:, : len(self.labels)]

    def __call__(self, images: Any) -> list[Classified]:
        """What each image is taken for.

        Args:
            images: As for `cosines`.

        Returns:
            One answer an image. "None of these" where the others together are more probable than
            any class, or where no cosine reaches `min_cosine`.
        """
        cosines = self._all_cosines(images)
        probabilities = self._softmax(cosines)
        count = len(self.labels)
        answers = []
        for cosine, probability in zip(cosines[:, :count], probabilities, strict=True):
            best = int(probability[:count].argmax())
            none = float(probability[count:].sum())
            if none > probability[best]:
                answers.append(Classified(None, none))
            elif self._min_cosine is not None and cosine[best] < self._min_cosine:
                answers.append(Classified(None, 1.0 - float(probability[best])))
            else:
                answers.append(Classified(self.labels[best], float(probability[best])))
        return answers

    def _all_cosines(self, images: Any) -> NDArray[np.float32]:
        if images is None:
            raise InvalidInputError("images: expected images or embeddings, got None")
        if isinstance(images, np.ndarray) and np.issubdtype(images.dtype, np.floating):
            rows = np.asarray(images, np.float32)
            if rows.ndim != 2 or rows.shape[1] != self._vectors.shape[1]:
                raise InvalidInputError(
                    f"embeddings: expected [n, {self._vectors.shape[1]}], got {list(rows.shape)}"
                )
            norms = np.linalg.norm(rows, axis=1, keepdims=True)
            if not (np.isfinite(norms).all() and (norms > 0).all()):
                raise InvalidInputError("embeddings: rows that are zero or not finite")
            rows = rows / norms
        else:
            rows = np.asarray(self.pipeline.forward({"img": images})["img_embedding"], np.float32)
        cosines: NDArray[np.float32] = rows @ self._vectors.T
        return cosines

    def _softmax(self, cosines: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = cosines.astype(np.float64) / self.pipeline.model.info.temperature
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
        return shares.astype(np.float32)


def _names(names: Sequence[str], what: str) -> list[str]:
    if isinstance(names, str):
        raise InvalidInputError(f"{what}: expected a list of texts, got one text")
    found = list(names)
    for index, name in enumerate(found):
        if not isinstance(name, str) or not name.strip():
            raise InvalidInputError(f"{what}[{index}]: expected a text, got {name!r}")
    if len(set(found)) != len(found):
        twice = next(name for name in found if found.count(name) > 1)
        raise InvalidInputError(f"{what}: {twice!r} stands there twice")
    return found


@dataclass(frozen=True)
class ZeroShotReport:
    """What an evaluation found. Notebooks show it as a table of what was taken for what.

    Attributes:
        dataset: The data set's name.
        model: The model's name.
        precision: What it was computed in.
        labels: The classes' names.
        templates: The templates.
        top1: Images whose class came first, in per cent.
        top5: Images whose class came among the first five, in per cent; None for fewer than six
            classes, where it says little or nothing.
        mean_per_class: The mean of the classes' own shares of top-1, in per cent, over those that
            have images.
        per_class: Those shares by name; None for classes without images.
        confusion: int64 [labels, labels]: images of a class (row) taken for another (column).
        images: How many were classified.
        problems: What could not be used.
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

    def _repr_html_(self) -> str:
        from .confusion_table import notebook_html

        return notebook_html(self)

    def to_dict(self) -> dict[str, Any]:
        """The content of `report.json`."""
        return {
            "top1": self.top1,
            "top5": self.top5,
            "mean_per_class": self.mean_per_class,
            "dataset": self.dataset,
            "model": self.model,
            "precision": self.precision,
            "images": self.images,
            "skipped": sum(problem.skipped for problem in self.problems),
            "per_class": self.per_class,
            "templates": self.templates,
            "confusion": self.confusion.tolist(),
            "problems": [
                {"where": p.where, "what": p.what, "skipped": p.skipped} for p in self.problems
            ],
            "cnclip": __version__,
        }


def zeroshot(
    dataset: str | Path,
    model: str | Path | MultiModalEmbeddingPipeline,
    *,
    split: str | None = None,
    labels: str | Path | Sequence[str] | None = None,
    templates: str | Path | Sequence[str] | None = None,
    output: str | Path | None = None,
    precision: str = "fp32",
    device: str = "gpu",
    strict: bool = False,
    show_progress: bool = False,
) -> ZeroShotReport:
    """Evaluate zero-shot classification on images whose classes are known.

    Args:
        dataset: See `cnclip.datasets.classification.ClassificationData`.
        model: As `pipeline` takes it, or an open pipeline.
        split: A folder of the data set, such as `'test'`.
        labels: The classes' Chinese names: a list in the order of the classes' indices, the name
            of one that ships (`'cifar10'`, `'cifar100'`, `'caltech101'`, `'imagenet'`; folders are
            then called as in that data set), or a file. By default `label_cn.txt` of the data set,
            else its folders' names.
        templates: See `ZeroShotClassifier`; by default those that go with the labels.
        output: A folder for `report.json` and `confusion.png`.
        precision: As of `pipeline`.
        device: As of `pipeline`.
        strict: Raise the first image's problem instead of going on without it.
        show_progress: Tell on stderr how far it has come.

    Raises:
        DatasetError: no such data set, nothing in it that can be used, or labels that do not fit.
        MissingExtraError: `output` is given and matplotlib is not installed.
        InvalidInputError: labels or templates that cannot be used.
    """
    if output is not None:
        from . import confusion  # before an hour's work
    data = ClassificationData(dataset, split)
    keys, names = _classes(data, labels)
    if templates is None:
        templates = TEMPLATES_OF.get(str(labels), "generic")
    chosen = read_templates(templates)
    if not isinstance(model, MultiModalEmbeddingPipeline):
        model = pipeline(model=model, precision=precision, device=device)
    classifier = ZeroShotClassifier(names, chosen, model=model)
    problems = Problems(strict)
    matrix = np.zeros((len(names), len(names)), np.int64)
    among_five = 0
    with progress("images", None, "image", enabled=show_progress) as advance:
        images = data.images(keys, problems)
        for batch in embed_images(model, images, _open):
            for item, why in batch.failed:
                problems.add(item.row.where, str(why))
            right = np.array([item.label for item in batch.items], np.int64)
            if len(right):
                order = np.argsort(-classifier.cosines(batch.rows), axis=1, kind="stable")
                np.add.at(matrix, (right, order[:, 0]), 1)
                among_five += int((order[:, :5] == right[:, None]).any(axis=1).sum())
            advance(len(batch.items) + len(batch.failed))
    count = int(matrix.sum())
    if count == 0:
        first = f": {problems.found[0]}" if problems.found else ""
        raise DatasetError(f"{dataset}: no image that can be used{first}")
    report = _report(data, model, classifier, matrix, among_five, problems)
    if output is not None:
        folder = Path(output)
        folder.mkdir(parents=True, exist_ok=True)
        confusion.draw(report, folder / "confusion.png")
        with replaced_atomically(folder / "report.json") as temporary:
            text = json.dumps(report.to_dict(), indent=1, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")
    return report


def _open(item: ClassifiedImage) -> Any:
    return open_image(item.row, turned=True)


def _report(
    data: ClassificationData,
    model: MultiModalEmbeddingPipeline,
    classifier: ZeroShotClassifier,
    matrix: NDArray[np.int64],
    among_five: int,
    problems: Problems,
) -> ZeroShotReport:
    of_class, right = matrix.sum(axis=1), matrix.diagonal()
    count = int(of_class.sum())
    shares = [100 * int(r) / int(n) if n else None for r, n in zip(right, of_class, strict=True)]
    known = [share for share in shares if share is not None]
    return ZeroShotReport(
        dataset=data.name,
        model=model_name(model),
        precision=model.model.precision,
        labels=classifier.labels,
        templates=classifier.templates,
        top1=100 * int(right.sum()) / count,
        top5=100 * among_five / count if len(classifier.labels) > 5 else None,
        mean_per_class=sum(known) / len(known),
        per_class=dict(zip(classifier.labels, shares, strict=True)),
        confusion=matrix,
        images=count,
        problems=problems.found,
    )


def _classes(
    data: ClassificationData, labels: str | Path | Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """What the data set calls its classes, and their Chinese names, in the order of indices."""
    found: dict[str, str] | Iterable[str]
    if labels is None:
        found = data.chinese or data.keys
        if not found:
            raise DatasetError(f"{data.name}: a list of images needs labels")
    elif isinstance(labels, str | Path):
        found = shipped_labels(str(labels)) if str(labels) in LABELS else read_labels(labels)
    else:
        found = list(labels)
    if isinstance(found, dict):
        if data.keys:  # the folders that are there: a part of ImageNet is a data set too
            missing = [key for key in data.keys if key not in found]
            if missing:
                raise DatasetError(f"{data.name}: no label for the folder {missing[0]!r}")
            return data.keys, [found[key] for key in data.keys]
        return list(found), list(found.values())
    names = list(found)
    if data.keys and len(names) != len(data.keys):
        raise DatasetError(f"{data.name}: {len(data.keys)} folders, but {len(names)} labels")
    return data.keys or names, names
