"""Retrieval on a data set: texts find images, images find texts."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._files import identity_of, replaced_atomically
from ..bulk import embed_images
from ..cache import remembered_sha256
from ..datasets import Problem, Problems, RetrievalData, open_retrieval
from ..datasets.ids import Id
from ..datasets.retrieval import ImageRow, open_image, with_known
from ..errors import DatasetError
from ..pipelines import MultiModalEmbeddingPipeline, pipeline
from ..progress import progress
from ..version import __version__
from .features import Features, Shard
from .published import published_results
from .recall import recall_at_k
from .search import Ranked, mutual_top_k

# Ranks that prediction files have.
K = 10
# Items of a kept shard: about a minute's work for a large model on a CPU.
IMAGES_OF_SHARD = 512
TEXTS_OF_SHARD = 8192


@dataclass(frozen=True)
class RetrievalReport:
    """What an evaluation found.

    Attributes:
        dataset: The data set's name.
        split: The split's name.
        model: The model's name.
        precision: What it was computed in.
        text_to_image: {"R@1", "R@5", "R@10", "MR"} in per cent; None where no text tells which
            images it describes.
        image_to_text: The same of images that look for texts.
        texts: How many texts could be found.
        images: How many images could be found.
        queries: How many of both were asked for: those of which something is right.
        truncated: How many texts are longer than the model takes, and were cut.
        normalized: Whether texts were put in lower case, with straight quotes.
        published: The authors' figures for this data set and size of model, if there are any.
        problems: The rows that could not be used, or only with a remark.
        predictions: (text id, image ids) of each text, best first, 10 at most.
        predictions_of_images: (image id, text ids) of each image.
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
        """How many rows were left out."""
        return sum(problem.skipped for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """The content of `report.json`."""
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
            "problems": [
                {"where": p.where, "what": p.what, "skipped": p.skipped} for p in self.problems
            ],
            "cnclip": __version__,
        }


def normalize_text(text: str) -> str:
    """A text as Chinese-CLIP's own evaluation puts it: lower case, curly double quotes straight.

    The source is `cn_clip/eval/data.py`; BERT's Chinese vocabulary lacks curly quotes.
    """
    return text.lower().replace("“", '"').replace("”", '"')


def retrieval(
    dataset: str | Path | RetrievalData,
    model: str | Path | MultiModalEmbeddingPipeline,
    *,
    split: str | None = None,
    output: str | Path | None = None,
    precision: str = "fp32",
    device: str = "gpu",
    normalize: bool = True,
    strict: bool = False,
    show_progress: bool = False,
) -> RetrievalReport:
    """Evaluate retrieval on a data set, as Chinese-CLIP's scripts do.

    Every text looks among all images, every image with a text among all texts; see
    `recall_at_k` for what is counted.

    Args:
        dataset: Where it lies, see `cnclip.datasets.open_retrieval`; or an open one.
        model: As `pipeline` takes it, or an open pipeline; `precision` and `device` are not used
            then.
        split: The split, where there are several.
        output: A folder for `report.json`, `text_to_image.jsonl` and `image_to_text.jsonl` (the
            predictions, in MUGE's format), `report.html` and the embeddings, which are used again
            when neither model nor data have changed. Without it nothing is written.
        precision: As of `pipeline`.
        device: As of `pipeline`.
        normalize: Apply `normalize_text`.
        strict: Raise the first row's problem instead of going on without the row.
        show_progress: Tell on stderr how far it has come.

    Raises:
        DatasetError: there is no such data set, or nothing in it that can be used.
        ModelNotFoundError, CheckpointError, ...: see `pipeline`.
        OSError: the folder cannot be written.
    """
    data = dataset if isinstance(dataset, RetrievalData) else open_retrieval(dataset, split)
    problems = Problems(strict)
    texts = list(data.texts(problems))
    if not texts:
        raise DatasetError(_nothing(data, "text", problems))
    folder = None if output is None else Path(output)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    if not isinstance(model, MultiModalEmbeddingPipeline):
        model = pipeline(model=model, precision=precision, device=device)
    key = _key(model, data, normalize)
    kept = None if folder is None else folder / "embeddings"
    image_ids, image_rows = _embed_images(
        model, data, problems, Features(kept, "images", key), show_progress
    )
    if not image_ids:
        raise DatasetError(_nothing(data, "image", problems))
    known = set(image_ids)
    texts = [left for text in texts if (left := with_known(text, known, problems))]
    if not texts:
        raise DatasetError(_nothing(data, "text", problems))
    words = [normalize_text(text.text) if normalize else text.text for text in texts]
    text_key = key | {"texts": _digest(words)}
    text_rows = _embed_texts(model, words, Features(kept, "texts", text_key), show_progress)

    with progress("search", len(texts), "text", enabled=show_progress) as advance:
        forth, back = mutual_top_k(text_rows, image_rows, K, progress=advance)
    text_ids = [text.text_id for text in texts]
    predictions = _named(text_ids, forth, image_ids)
    predictions_of_images = _named(image_ids, back, text_ids)
    of_text = {text.text_id: text.image_ids for text in texts if text.image_ids}
    of_image: dict[Id, list[Id]] = {}
    for text_id, some in of_text.items():
        for image_id in some:
            of_image.setdefault(image_id, []).append(text_id)
    _, lengths = model.preprocessor.tokenize(words, return_lengths=True)
    info = model.model.info
    report = RetrievalReport(
        dataset=data.name,
        split=data.split,
        model=model_name(model),
        precision=model.model.precision,
        text_to_image=_recall(predictions, of_text),
        image_to_text=_recall(predictions_of_images, of_image),
        texts=len(texts),
        images=len(image_ids),
        queries={"text_to_image": len(of_text), "image_to_text": len(of_image)},
        truncated=int((lengths > info.context_length).sum()),
        normalized=normalize,
        published=published_results(data.name, data.split, info),
        problems=problems.found,
        predictions=predictions,
        predictions_of_images=predictions_of_images,
    )
    if folder is not None:
        from .page import write_page

        _write_report(report, folder)
        write_page(report, data, texts, text_rows, image_ids, image_rows, folder / "report.html")
    return report


def _nothing(data: RetrievalData, what: str, problems: Problems) -> str:
    first = f": {problems.found[0]}" if problems.found else ""
    return f"{data.name}, {data.split}: no {what} that can be used{first}"


def model_name(model: MultiModalEmbeddingPipeline) -> str:
    """What a report calls a model: the name of what it was converted from."""
    source = model.model.info.metadata.get("source", {})
    return str(source.get("name") or model.model.info.path.name)


def _key(
    model: MultiModalEmbeddingPipeline, data: RetrievalData, normalize: bool
) -> dict[str, Any]:
    """Changes when other embeddings would come out."""
    try:
        files = _digest([identity_of(file) for file in data.files()])
    except OSError as error:
        raise DatasetError(f"{data.name}: cannot be read: {error}") from error
    return {
        "cnclip": __version__,
        "model": remembered_sha256(model.model.info.path),
        "precision": model.model.precision,
        "device": model.model.device.partition(":")[0],
        "normalized_texts": normalize,
        "dataset": data.name,
        "split": data.split,
        "files": files,
    }


def _digest(parts: list[str]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(f"{len(part)}:{part}".encode("utf-8", "surrogatepass"))
    return total.hexdigest()


def _embed_images(
    model: MultiModalEmbeddingPipeline,
    data: RetrievalData,
    problems: Problems,
    features: Features,
    show_progress: bool,
) -> tuple[list[Id], NDArray[np.float32]]:
    def open_row(row: ImageRow) -> Any:
        return open_image(row, turned=data.turns_images)

    ids: list[Id] = []
    parts = [np.empty((0, model.model.info.embed_dim), np.float32)]
    rows = data.images(problems)
    number = done = 0
    last = False
    for shard in features.read():
        # The rows are read again: what is wrong with them is told again.
        done += sum(1 for _ in itertools.islice(rows, shard.seen))
        _take(shard, ids, parts, problems)
        number, last = number + 1, shard.last
    total = data.count_images()
    with progress("images", total, "image", done=done, enabled=show_progress) as advance:
        while not last:
            shard = _embed_shard(model, rows, open_row, advance)
            features.write(number, shard)
            _take(shard, ids, parts, problems)
            number, last = number + 1, shard.last
    # A generator that was stopped early has not told of the rows behind.
    for _ in rows:
        pass
    return ids, np.concatenate(parts)


def _embed_shard(
    model: MultiModalEmbeddingPipeline,
    rows: Iterator[ImageRow],
    open_row: Callable[[ImageRow], Any],
    advance: Callable[[int], None],
) -> Shard:
    ids: list[Id] = []
    parts = [np.empty((0, model.model.info.embed_dim), np.float32)]
    failed: list[tuple[str, str, Id]] = []
    seen = 0
    for batch in embed_images(model, itertools.islice(rows, IMAGES_OF_SHARD), open_row):
        ids += [row.image_id for row in batch.items]
        parts.append(batch.rows)
        failed += [(r.where, f"image {r.image_id}: {why}", r.image_id) for r, why in batch.failed]
        seen += len(batch.items) + len(batch.failed)
        advance(len(batch.items) + len(batch.failed))
    return Shard(seen, ids, np.concatenate(parts), failed, last=seen < IMAGES_OF_SHARD)


def _take(
    shard: Shard, ids: list[Id], parts: list[NDArray[np.float32]], problems: Problems
) -> None:
    ids += shard.ids
    parts.append(shard.rows)
    for where, what, _ in shard.failed:
        problems.add(where, what)


def _embed_texts(
    model: MultiModalEmbeddingPipeline, texts: list[str], features: Features, show_progress: bool
) -> NDArray[np.float32]:
    rows = np.empty((len(texts), model.model.info.embed_dim), np.float32)
    end = number = 0
    for shard in features.read():
        number += 1
        rows[end : end + shard.seen] = shard.rows
        end += shard.seen
    with progress("texts", len(texts), "text", done=end, enabled=show_progress) as advance:
        while end < len(texts):
            some = texts[end : end + TEXTS_OF_SHARD]
            found = model.forward({"text": some})["text_embedding"]
            rows[end : end + len(some)] = found
            end += len(some)
            shard = Shard(len(some), [], rows[end - len(some) : end], [], last=end == len(texts))
            features.write(number, shard)
            number += 1
            advance(len(some))
    return rows


def _named(ids: list[Id], ranked: Ranked, candidates: list[Id]) -> list[tuple[Id, list[Id]]]:
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


def _write_report(report: RetrievalReport, folder: Path) -> None:
    def lines(predictions: list[tuple[Id, list[Id]]], query: str, found: str) -> Iterator[str]:
        for one, answers in predictions:
            yield json.dumps({query: one, found: answers}, ensure_ascii=False) + "\n"

    contents = {
        "text_to_image.jsonl": lines(report.predictions, "text_id", "image_ids"),
        "image_to_text.jsonl": lines(report.predictions_of_images, "image_id", "text_ids"),
        "report.json": iter([json.dumps(report.to_dict(), indent=1, ensure_ascii=False) + "\n"]),
    }
    for name, content in contents.items():
        with (
            replaced_atomically(folder / name) as temporary,
            temporary.open("w", encoding="utf-8", newline="\n") as file,
        ):
            file.writelines(content)
