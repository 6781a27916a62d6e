"""Zero-shot classification: classes are texts, and an image belongs to the nearest one."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._text import counted, is_blank
from ..datasets import ProblemKind, Problems
from ..datasets.classification import ClassificationData, ClassifiedImage
from ..errors import DatasetError, FormatOffError, InvalidInputError
from ..pipelines import MultiModalEmbeddingPipeline, embed_images
from ..pipelines.scores import probabilities
from ..preprocessors.decoding import ImageOptions, decode_image
from ..preprocessors.text import count_texts, normalize_text
from ..progress import progress
from ..sources.names import find_name
from .reports import ZeroShotReport, model_name
from .texts import LABELS, TEMPLATES_OF, bundled_labels, read_labels, read_templates

logger = logging.getLogger("cnclip")


@dataclass(frozen=True)
class Classified:
    """The class of an image.

    Attributes:
        label: The name of the class; None if the image belongs to none of the classes.
        probability: The probability of that class, or of "none of these".
    """

    label: str | None
    probability: float


class ZeroShotClassifier:
    """Classifies images by class names, without training on them.

    The vector of a class is the mean of the embeddings of its texts, one for each template, scaled
    to unit length (Radford et al., 2021, section 3.1.4). Probabilities are the softmax of the
    cosines divided by the model's temperature. They add up to 1 over the classes, so that every
    image belongs to some class, even if none fits.

    There are two ways to find images that belong to none of the classes. Name alternatives:
    `others=["其他东西", "风景"]` are texts that compete with the classes, and the sum of their
    probabilities is the probability of "none of these". Or set a lower bound, `min_cosine=0.3`:
    the range of cosines between images and texts is narrow and differs from model to model, so
    choose the bound by looking at `cosines` of your own images, with and without the classes.

    Methods take images, as for `pipeline.forward` under 'img', or their embeddings, float [n, d].
    They raise InvalidInputError for embeddings of another width or with rows that are zero or not
    finite.

    Attributes:
        labels: The names of the classes.
        templates: Texts with `{}` for a name.
        others: Names of alternatives to the classes.
        class_vectors: float32 [labels, d], of unit length.
    """

    def __init__(
        self,
        labels: Sequence[str],
        pipeline: MultiModalEmbeddingPipeline,
        templates: str | Path | Sequence[str] = "generic",
        *,
        others: Sequence[str] = (),
        min_cosine: float | None = None,
        normalize: bool = True,
        encoding: str | None = None,
    ) -> None:
        """Embed the classes. The log names labels that the model cannot tell apart.

        Args:
            labels: Chinese names of the classes, all different.
            pipeline: An open pipeline.
            templates: The name of bundled templates (`'generic'`, `'photo'`, `'small'`,
                `'plain'`), a file with one on each line, or texts with `{}` for a name.
            others: Names of alternatives to the classes, which get the same templates.
            min_cosine: An image whose best class has a lower cosine belongs to none of them.
            normalize: Apply `normalize_text`, as Chinese-CLIP's evaluation does.
            encoding: The encoding of a file of templates, as for `read_labels`.

        Raises:
            InvalidInputError: there are no labels, a label is empty or a duplicate, or the
                templates cannot be used.
        """
        self.labels = _checked_names(labels, "labels")
        self.others = _checked_names(others, "others") if others else []
        if not self.labels:
            raise InvalidInputError("expected at least one label", item="labels")
        if both := set(self.labels) & set(self.others):
            raise InvalidInputError(f"{min(both)!r} is among the labels", item="others")
        self.templates = read_templates(templates, encoding)
        self.pipeline = pipeline
        for message in count_texts(pipeline.preprocessor, self.labels, "label").messages():
            logger.warning("%s", message)
        self._min_cosine = min_cosine
        texts = [t.replace("{}", n) for n in self.labels + self.others for t in self.templates]
        if normalize:
            texts = [normalize_text(text) for text in texts]
        rows = np.asarray(pipeline.forward({"text": texts})["text_embedding"], np.float32)
        means = rows.reshape(len(self.labels) + len(self.others), len(self.templates), -1).mean(1)
        vectors = means / np.linalg.norm(means, axis=1, keepdims=True)
        self.class_vectors = vectors[: len(self.labels)]
        self._vectors = vectors

    def __repr__(self) -> str:
        names = ", ".join(self.labels[:5]) + (", ..." if len(self.labels) > 5 else "")
        classes = "class" if len(self.labels) == 1 else "classes"
        return (
            f"ZeroShotClassifier({len(self.labels)} {classes}: {names}; "
            f"{counted(len(self.templates), 'templates')})"
        )

    def cosines(self, images: Any) -> NDArray[np.float32]:
        """Compute the cosines of images and classes, float32 [n, labels]."""
        return self._all_cosines(images)[:, : len(self.labels)]

    def probabilities(self, images: Any) -> NDArray[np.float32]:
        """Compute the probabilities of the classes, float32 [n, labels].

        A row adds up to 1 less the probability of the `others`.
        """
        return self._softmax(self._all_cosines(images))[:, : len(self.labels)]

    def __call__(self, images: Any) -> list[Classified]:
        """Classify images: a result for each.

        An image belongs to none of the classes if the others together are more probable than any
        class, or if no cosine reaches `min_cosine`.
        """
        cosines = self._all_cosines(images)
        return [self._classify(*row) for row in zip(cosines, self._softmax(cosines), strict=True)]

    def _classify(self, cosines: NDArray[np.float32], shares: NDArray[np.float32]) -> Classified:
        count = len(self.labels)
        best = int(shares[:count].argmax())
        other = float(shares[count:].sum())
        if other > shares[best]:
            return Classified(None, other)
        if self._min_cosine is not None and cosines[best] < self._min_cosine:
            return Classified(None, 1.0 - float(shares[best]))
        return Classified(self.labels[best], float(shares[best]))

    def _all_cosines(self, images: Any) -> NDArray[np.float32]:
        """Float32 [n, labels and others]."""
        if images is None:
            raise InvalidInputError("expected images or embeddings, got None", item="images")
        if isinstance(images, np.ndarray) and np.issubdtype(images.dtype, np.floating):
            rows = np.asarray(images, np.float32)
            width = self._vectors.shape[1]
            if rows.ndim != 2 or rows.shape[1] != width:
                raise InvalidInputError(
                    f"expected [n, {width}], got {list(rows.shape)}", item="embeddings"
                )
            norms = np.linalg.norm(rows, axis=1, keepdims=True)
            if not (np.isfinite(norms).all() and (norms > 0).all()):
                raise InvalidInputError("has rows that are zero or not finite", item="embeddings")
            rows = rows / norms
        else:
            rows = np.asarray(self.pipeline.forward({"img": images})["img_embedding"], np.float32)
        cosines: NDArray[np.float32] = rows @ self._vectors.T
        return cosines

    def _softmax(self, cosines: NDArray[np.float32]) -> NDArray[np.float32]:
        return probabilities(cosines, self.pipeline.model.info.temperature).astype(np.float32)


def _checked_names(names: Sequence[str], parameter: str) -> list[str]:
    if isinstance(names, str):
        raise InvalidInputError("expected a list of texts, got one text", item=parameter)
    found = list(names)
    for index, name in enumerate(found):
        if not isinstance(name, str) or is_blank(name):
            raise InvalidInputError(f"expected a text, got {name!r}", item=f"{parameter}[{index}]")
    if len(set(found)) != len(found):
        duplicate = next(name for name in found if found.count(name) > 1)
        raise InvalidInputError(f"duplicate name {duplicate!r}", item=parameter)
    return found


def zeroshot(
    dataset: str | Path,
    pipeline: MultiModalEmbeddingPipeline,
    *,
    split: str | None = None,
    labels: str | Path | Sequence[str] | None = None,
    templates: str | Path | Sequence[str] | None = None,
    output: str | Path | None = None,
    encoding: str | None = None,
    strict: bool = False,
    show_progress: bool = False,
) -> ZeroShotReport:
    """Evaluate zero-shot classification on images whose classes are known.

    Args:
        dataset: A folder or list of images, see `cnclip.datasets.classification`.
        pipeline: An open pipeline.
        split: A folder of the data set, such as `'test'`.
        labels: The classes' Chinese names: a list in the order of the classes' indices, the name
            of a bundled list (`'cifar10'`, `'cifar100'`, `'caltech101'`, `'imagenet'`, for folders
            named as in that data set), or a file. By default `label_cn.txt` of the data set, else
            the names of its folders.
        templates: As for `ZeroShotClassifier`; by default those that suit the labels.
        output: A folder for `report.json` and `confusion.png`.
        encoding: The encoding of text files, and of names in zips; by default as found.
        strict: Raise the error of the first image that cannot be used instead of skipping it.
        show_progress: Show progress on stderr.

    Raises:
        DatasetError: there is no such data set, no image in it can be used, or the labels do not
            match its classes.
        MissingExtraError: `output` is given and matplotlib is not installed.
        InvalidInputError: the labels or templates cannot be used.
        OSError: the output cannot be written.
    """
    if output is not None:
        from .confusion_plot import draw_confusion  # fails before the work if matplotlib is missing
    data = ClassificationData(dataset, split, encoding)
    keys, names = _classes(data, labels, encoding)
    if templates is None:
        templates = TEMPLATES_OF.get(str(labels), "generic")
    classifier = ZeroShotClassifier(names, pipeline, templates, encoding=encoding)
    problems = Problems(strict)
    matrix, among_five = _classify(
        classifier, data.images(keys, problems), problems, show_progress=show_progress
    )
    if not matrix.any():
        raise DatasetError(f"no image can be used{problems.hint}", file=dataset)
    report = _report(data, classifier, matrix, among_five, problems)
    if output is not None:
        folder = Path(output)
        folder.mkdir(parents=True, exist_ok=True)
        draw_confusion(report, folder / "confusion.png")
        report.write(folder)
    return report


def _open(item: ClassifiedImage, options: ImageOptions) -> Any:
    return decode_image(item.row.image.read(), turned=True, options=options)


def _classify(
    classifier: ZeroShotClassifier,
    images: Iterable[ClassifiedImage],
    problems: Problems,
    *,
    show_progress: bool,
) -> tuple[NDArray[np.int64], int]:
    """The confusion matrix, and the number of images whose class is among the first five."""
    count = len(classifier.labels)
    matrix = np.zeros((count, count), np.int64)
    among_five = 0
    with progress("images", None, "image", enabled=show_progress) as advance:
        opener = partial(_open, options=classifier.pipeline.preprocessor.image_options)
        for batch in embed_images(classifier.pipeline, images, opener):
            for item, error in batch.failed:
                row, reason = item.row, error.reason
                if row.where.line is not None:  # a list's line does not name the image
                    reason = f"{row.image_id}: {reason}"
                elif isinstance(error, FormatOffError):  # as files with the format's suffix
                    problems.add(ProblemKind.LEFT_OUT, row.where, reason, skipped=False)
                    continue
                problems.add(ProblemKind.UNREADABLE_IMAGE, row.where, reason)
            right = np.array([item.label for item in batch.embedded], np.int64)
            if len(right):
                order = np.argsort(-classifier.cosines(batch.vectors), axis=1, kind="stable")
                np.add.at(matrix, (right, order[:, 0]), 1)
                among_five += int((order[:, :5] == right[:, None]).any(axis=1).sum())
            advance(len(batch.items))
    return matrix, among_five


def _report(
    data: ClassificationData,
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
        model=model_name(classifier.pipeline),
        precision=classifier.pipeline.model.precision,
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
    data: ClassificationData, labels: str | Path | Sequence[str] | None, encoding: str | None
) -> tuple[list[str], list[str]]:
    """The data set's own names of its classes, and their Chinese names, in the order of indices."""
    found: dict[str, str] | Iterable[str]
    if labels is None:
        found = data.chinese or data.keys
        if not found:
            raise DatasetError("a list of images requires labels", file=data.name)
    elif isinstance(labels, str | Path):
        bundled = str(labels) in LABELS
        found = bundled_labels(str(labels)) if bundled else read_labels(labels, encoding)
    else:
        found = list(labels)
    if isinstance(found, dict):
        if data.keys:  # the folders that exist: a part of ImageNet is a data set too
            chinese = [find_name(found, key) for key in data.keys]
            if None in chinese:
                missing = data.keys[chinese.index(None)]
                raise DatasetError(f"no label for the folder {missing!r}", file=data.name)
            return data.keys, [name for name in chinese if name is not None]
        return list(found), list(found.values())
    names = list(found)
    if data.keys and len(names) != len(data.keys):
        raise DatasetError(f"{len(data.keys)} folders, but {len(names)} labels", file=data.name)
    return data.keys or names, names
