"""Recall on a whole validation set, counted as `cnclip eval retrieval` counts it.

The weights in training are not an archive: the towers run as torch modules under autocast, on the
device of the training, and worker processes read the images. `pipelines.stream`, which evaluation
uses, drives a pipeline.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ..datasets.pairs import PairData
from ..errors import CnclipError, DatasetError, ImageError
from ..evaluate import mutual_top_k, recall_at_k
from ..modeling.clip import ChineseClip
from ..preprocessors.text import normalize_text
from .loader import Preprocessing, leave_group, read_image, skipped_image, unchanged
from .options import TrainOptions
from .process import World

Recall = dict[str, float]


@dataclass(frozen=True)
class Validation:
    """The result of a validation.

    Attributes:
        text_to_image: {"R@1", "R@5", "R@10", "MR"} in per cent, with texts as queries.
        image_to_text: The recall with images as queries.
        skipped: Images that could not be read.
    """

    text_to_image: Recall
    image_to_text: Recall
    skipped: list[ImageError]

    @property
    def mean_recall(self) -> float:
        """The mean of both directions' MR, by which the best weights are chosen."""
        return (self.text_to_image["MR"] + self.image_to_text["MR"]) / 2


@dataclass(frozen=True)
class Embedded:
    """Embeddings of a data set, or of the share of one process.

    Attributes:
        images: The numbers of the images that could be read: int64 [images].
        image_rows: float32 [images, d].
        texts: The numbers of the texts: int64 [texts].
        text_rows: float32 [texts, d].
        skipped: Images that could not be read.
    """

    images: NDArray[np.int64]
    image_rows: NDArray[np.float32]
    texts: NDArray[np.int64]
    text_rows: NDArray[np.float32]
    skipped: list[ImageError]


class Validator:
    """Measures recall of a model in training on a data set. The processes share the work."""

    def __init__(
        self,
        data: PairData,
        preprocessing: Preprocessing,
        world: World,
        autocast: Callable[[], contextlib.AbstractContextManager[None]],
        workers: int,
        options: TrainOptions,
    ) -> None:
        """Prepare for a data set.

        The candidates of a text are all images that have a text, those of an image all texts that
        have an image.

        Args:
            data: The data set.
            preprocessing: The model's.
            world: The processes.
            autocast: Returns the context in which the towers run.
            workers: Processes that read images.
            options: The batch size, and whether texts are normalized.
        """
        self._data, self._preprocessing = data, preprocessing
        self._world, self._autocast, self._workers = world, autocast, workers
        self._batch_size = options.valid_batch_size or options.batch_size
        self._images, self._texts = np.unique(data.pairs[:, 0]), np.unique(data.pairs[:, 1])
        words = [data.texts[text] for text in self._texts]
        self._words = words if options.raw_text else [normalize_text(text) for text in words]

    def measure(
        self, model: ChineseClip, stop: Callable[[], bool] = lambda: False
    ) -> Validation | None:
        """Embed the data set and search it in both directions. All processes call.

        Args:
            model: The model; its training mode is unchanged afterwards.
            stop: Called after each batch of a run with one process; True cancels the validation.

        Returns:
            The same result in each process; None if it was cancelled.

        Raises:
            DatasetError: no image of the data set can be read.
        """
        found = self.embed(model, stop)
        return None if found is None else self.recall(found)

    def recall(self, found: Embedded) -> Validation:
        """The recall over all embeddings of the data set."""
        images, texts = found.images, found.texts
        by_text, by_image = mutual_top_k(found.text_rows, found.image_rows, 10)
        pairs = self._data.pairs[np.isin(self._data.pairs[:, 0], images)]
        return Validation(
            _recall(by_text.indices, texts, images, pairs[:, ::-1]),
            _recall(by_image.indices, images, texts, pairs),
            found.skipped,
        )

    def embed(
        self, model: ChineseClip, stop: Callable[[], bool] = lambda: False
    ) -> Embedded | None:
        """Embed the data set. All processes call.

        Args:
            model: As for `measure`.
            stop: As for `measure`.

        Returns:
            All embeddings in the order of their numbers; None if it was cancelled.

        Raises:
            DatasetError: no image of the data set can be read.
        """
        with _evaluation_mode(model), torch.inference_mode():
            own = self._embed(model, stop)
        if own is None:
            return None
        parts: list[Embedded] = self._world.gather_objects(own)
        images = np.concatenate([part.images for part in parts])
        texts = np.concatenate([part.texts for part in parts])
        skipped = [image for part in parts for image in part.skipped]
        if len(images) == 0:
            raise DatasetError(
                f"{self._data.name}, {self._data.split}: no image can be read; "
                f"the first: {skipped[0]}"
            )
        order, text_order = np.argsort(images), np.argsort(texts)
        return Embedded(
            images[order],
            np.concatenate([part.image_rows for part in parts])[order],
            texts[text_order],
            np.concatenate([part.text_rows for part in parts])[text_order],
            skipped,
        )

    def _embed(self, model: ChineseClip, stop: Callable[[], bool]) -> Embedded | None:
        """The embeddings of this process's share; None if cancelled."""
        device, size = self._world.device, self._batch_size
        share = slice(self._world.rank, None, self._world.size)
        empty = np.empty((0, model.config.embed_dim), np.float32)
        numbers: list[int] = []
        skipped: list[ImageError] = []
        rows, text_rows = [empty], [empty]
        for some, pixels, failed in self._batches_of_images(self._images[share]):
            skipped += failed
            numbers += some
            if some:
                with self._autocast():
                    rows.append(model.encode_image(pixels.to(device)).cpu().numpy())
            if self._world.size == 1 and stop():
                return None
        words = self._words[share]
        for start in range(0, len(words), size):
            ids = self._preprocessing.ids(words[start : start + size])
            with self._autocast():
                text_rows.append(model.encode_text(ids.to(device)).cpu().numpy())
            if self._world.size == 1 and stop():
                return None
        return Embedded(
            np.asarray(numbers, np.int64),
            np.concatenate(rows),
            self._texts[share],
            np.concatenate(text_rows),
            skipped,
        )

    def _batches_of_images(self, numbers: NDArray[np.int64]) -> DataLoader[ImageBatch]:
        return DataLoader(
            _Images(self._data, numbers, self._preprocessing),
            batch_size=self._batch_size,
            num_workers=self._workers,
            collate_fn=unchanged,
            generator=torch.Generator(),  # a separate one: do not advance the training's generator
            worker_init_fn=leave_group,
        )


# Numbers of images, their pixels, and the images that could not be read.
ImageBatch = tuple[list[int], torch.Tensor, list[ImageError]]


class _Images(Dataset[ImageBatch]):
    def __init__(
        self, data: PairData, numbers: NDArray[np.int64], preprocessing: Preprocessing
    ) -> None:
        self._data, self._numbers, self._preprocessing = data, numbers, preprocessing

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitems__(self, indices: list[int]) -> ImageBatch:
        numbers: list[int] = []
        pixels: list[NDArray[np.float32]] = []
        skipped: list[ImageError] = []
        for image in self._numbers[indices].tolist():
            try:
                opened, _ = read_image(self._data, image)
                pixels.append(self._preprocessing.pixels(opened))
                numbers.append(image)
            except MemoryError:
                raise
            except CnclipError as error:
                skipped.append(skipped_image(self._data, image, error))
        return numbers, torch.from_numpy(np.stack(pixels)) if pixels else torch.empty(0), skipped


def _recall(
    ranked: NDArray[np.int64],
    queries: NDArray[np.int64],
    candidates: NDArray[np.int64],
    pairs: NDArray[np.int64],
) -> Recall:
    """The recall of the queries that have a candidate.

    Args:
        ranked: int64 [queries, k], indices of candidates, best first.
        queries: The number of each query.
        candidates: The number of each candidate.
        pairs: int64 [n, 2], numbers of a query and of a candidate that match.
    """
    relevant: dict[int, list[int]] = {}
    for query, candidate in pairs.tolist():
        relevant.setdefault(query, []).append(candidate)
    # The image of a text may be missing, since it could not be read.
    asked = [index for index, query in enumerate(queries.tolist()) if query in relevant]
    return recall_at_k(candidates[ranked[asked]], [relevant[int(queries[i])] for i in asked])


@contextlib.contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    modes = {name: module.training for name, module in model.named_modules()}
    model.eval()
    try:
        yield
    finally:
        for name, module in model.named_modules():
            module.training = modes[name]
