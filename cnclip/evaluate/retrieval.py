"""Retrieval on a data set: texts find images, images find texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .._files import replaced_atomically
from ..datasets import Problems, RetrievalData, TextRow, open_retrieval
from ..datasets.retrieval import without_missing_images
from ..errors import DatasetError
from ..pipelines import MultiModalEmbeddingPipeline
from ..preprocessors.text import count_texts, normalize_text
from ..progress import progress
from ..sources import Id
from .embeddings import SplitEmbedder
from .pages import EmbeddedSplit, write_page
from .published import published_results
from .recall import recall_at_k
from .reports import RetrievalReport, model_name
from .topk import Ranked, mutual_top_k

# Candidates of each query in prediction files.
K = 10


def retrieval(
    dataset: str | Path | RetrievalData,
    pipeline: MultiModalEmbeddingPipeline,
    *,
    split: str | None = None,
    output: str | Path | None = None,
    normalize: bool = True,
    encoding: str | None = None,
    strict: bool = False,
    show_progress: bool = False,
) -> RetrievalReport:
    """Evaluate retrieval on a data set, as Chinese-CLIP's scripts do.

    Every text searches all images, every image with a text searches all texts; `recall_at_k`
    defines the figures.

    Args:
        dataset: A path, see `cnclip.datasets.open_retrieval`, or an open data set.
        pipeline: An open pipeline.
        split: The split; required if the data set has several.
        output: A folder for `report.json`, `text_to_image.jsonl` and `image_to_text.jsonl` (the
            predictions, in MUGE's format), `report.html` and the embeddings, which are used again
            while neither model nor data set change. By default nothing is written.
        normalize: Apply `normalize_text`.
        encoding: The encoding of text files, and of names in archives; by default as found.
        strict: Raise the first problem of a row instead of skipping the row.
        show_progress: Show progress on stderr.

    Raises:
        DatasetError: there is no such data set, or no text or no image in it can be used.
        OSError: the folder cannot be written.
    """
    if isinstance(dataset, RetrievalData):
        data = dataset
    else:
        data = open_retrieval(dataset, split, encoding=encoding)
    problems = Problems(strict)
    folder = None if output is None else Path(output)
    embedded = _embed_split(data, pipeline, folder, problems, normalize, show_progress)
    report = _report(data, pipeline, embedded, problems, normalize, show_progress)
    if folder is not None:
        _write_predictions(
            folder / "text_to_image.jsonl", report.predictions, "text_id", "image_ids"
        )
        _write_predictions(
            folder / "image_to_text.jsonl", report.predictions_of_images, "image_id", "text_ids"
        )
        report.write(folder)
        write_page(folder / "report.html", report, data, embedded)
    return report


def _embed_split(
    data: RetrievalData,
    pipeline: MultiModalEmbeddingPipeline,
    folder: Path | None,
    problems: Problems,
    normalize: bool,
    show_progress: bool,
) -> EmbeddedSplit:
    """Embed the images, and the texts whose images exist."""
    texts = list(data.texts(problems))
    if not texts:
        raise _nothing(data, "text", problems)
    kept = None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / "embeddings"
    embedder = SplitEmbedder(data, pipeline, kept, show_progress=show_progress)
    image_ids, image_vectors = embedder.images(problems)
    if not image_ids:
        raise _nothing(data, "image", problems)
    known = set(image_ids)
    texts = [left for text in texts if (left := without_missing_images(text, known, problems))]
    if not texts:
        raise _nothing(data, "text", problems)
    text_vectors = embedder.texts(texts, _query_texts(texts, normalize))
    return EmbeddedSplit(texts, text_vectors, image_ids, image_vectors)


def _query_texts(texts: list[TextRow], normalize: bool) -> list[str]:
    return [normalize_text(text.text) if normalize else text.text for text in texts]


def _report(
    data: RetrievalData,
    pipeline: MultiModalEmbeddingPipeline,
    embedded: EmbeddedSplit,
    problems: Problems,
    normalize: bool,
    show_progress: bool,
) -> RetrievalReport:
    """Search in both directions, and count."""
    texts, image_ids = embedded.texts, embedded.image_ids
    with progress("search", len(texts), "text", enabled=show_progress) as advance:
        for_texts, for_images = mutual_top_k(
            embedded.text_vectors, embedded.image_vectors, K, progress=advance
        )
    text_ids = [text.text_id for text in texts]
    predictions = _predictions(text_ids, for_texts, image_ids)
    predictions_of_images = _predictions(image_ids, for_images, text_ids)
    of_text = {text.text_id: text.image_ids for text in texts if text.image_ids}
    of_image: dict[Id, list[Id]] = {}
    for text_id, named in of_text.items():
        for image_id in named:
            of_image.setdefault(image_id, []).append(text_id)
    info = pipeline.model.info
    counts = count_texts(pipeline.preprocessor, _query_texts(texts, normalize))
    return RetrievalReport(
        dataset=data.name,
        split=data.split,
        model=model_name(pipeline),
        precision=pipeline.model.precision,
        text_to_image=_recall(predictions, of_text),
        image_to_text=_recall(predictions_of_images, of_image),
        texts=len(texts),
        images=len(image_ids),
        queries={"text_to_image": len(of_text), "image_to_text": len(of_image)},
        truncated=counts.cut,
        unknown=counts.unknown,
        normalized=normalize,
        published=published_results(data.name, data.split, info),
        problems=problems.found,
        predictions=predictions,
        predictions_of_images=predictions_of_images,
    )


def _nothing(data: RetrievalData, noun: str, problems: Problems) -> DatasetError:
    return DatasetError(f"no {noun} can be used{problems.hint}", file=data.name, member=data.split)


def _predictions(ids: list[Id], ranked: Ranked, candidates: list[Id]) -> list[tuple[Id, list[Id]]]:
    return [
        (one, [candidates[index] for index in row])
        for one, row in zip(ids, ranked.indices.tolist(), strict=True)
    ]


def _recall(
    predictions: list[tuple[Id, list[Id]]], relevant: dict[Id, Any]
) -> dict[str, float] | None:
    asked = [(found, relevant[one]) for one, found in predictions if one in relevant]
    if not asked:
        return None
    return recall_at_k([found for found, _ in asked], [right for _, right in asked])


def _write_predictions(
    path: Path, predictions: list[tuple[Id, list[Id]]], query: str, found: str
) -> None:
    """Write a line of JSON for each query, with the names `query` and `found` of its fields."""
    with (
        replaced_atomically(path) as temporary,
        # Lone surrogates, of names that are not UTF-8, become escapes of JSON.
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file,
    ):
        for one, ids in predictions:
            file.write(json.dumps({query: one, found: ids}, ensure_ascii=False) + "\n")
