"""Recall on a whole validation set, as `cnclip eval retrieval` counts it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ..datasets.pairs import PairData
from ..errors import CnclipError, DatasetError
from ..evaluate import mutual_top_k, normalize_text, recall_at_k
from .distributed import World
from .loader import Inputs, leave_group, read_image
from .towers import TrainableClip

Recall = dict[str, float]


@dataclass(frozen=True)
class Validation:
    """What a validation found.

    Attributes:
        text_to_image: {"R@1", "R@5", "R@10", "MR"} in per cent.
        image_to_text: The same of images that look for texts.
        skipped: (place, reason) of images that could not be read.
    """

    text_to_image: Recall
    image_to_text: Recall
    skipped: list[tuple[str, str]]

    @property
    def mean_recall(self) -> float:
        """The mean of both directions' MR, by which the best weights are chosen."""
        return (self.text_to_image["MR"] + self.image_to_text["MR"]) / 2


class _Images(Dataset[tuple[int, NDArray[np.float32] | tuple[str, str]]]):
    def __init__(self, data: PairData, numbers: NDArray[np.int64], inputs: Inputs) -> None:
        self._data, self._numbers, self._inputs = data, numbers, inputs

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> tuple[int, NDArray[np.float32] | tuple[str, str]]:
        """An image's number, and its pixels or why there are none."""
        image = int(self._numbers[index])
        try:
            opened, _ = read_image(self._data, image)
            return image, self._inputs.pixels(opened)
        except CnclipError as error:
            where = self._data.where(image)
            return image, (where, str(error).removeprefix(f"{where}: "))


def _separate(items: list[Any]) -> tuple[list[int], torch.Tensor, list[tuple[str, str]]]:
    good = [item for item in items if not isinstance(item[1], tuple)]
    bad = [item[1] for item in items if isinstance(item[1], tuple)]
    pixels = torch.from_numpy(np.stack([item[1] for item in good])) if good else torch.empty(0)
    return [item[0] for item in good], pixels, bad


def validate(
    model: TrainableClip,
    data: PairData,
    inputs: Inputs,
    world: World,
    autocast: Callable[[], contextlib.AbstractContextManager[None]],
    batch_size: int,
    workers: int,
    *,
    raw_text: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Validation | None:
    """Embed all of a data set and search it, both ways. The processes share the work.

    Args:
        model: The model; left in the mode, training or not, in which it was.
        data: The data set. A text looks among all images that belong to a text, an image among
            all texts that belong to an image.
        inputs: The model's preprocessing.
        world: The processes; all must call.
        autocast: Around each run of the towers.
        batch_size: Items that go through the towers at once.
        workers: Processes that read images.
        raw_text: Leave texts as they are.
        stop: Asked after each batch whether to give up; must be answered alike by all.

    Returns:
        The same in each process; None if given up.

    Raises:
        DatasetError: nothing in it can be used.
    """
    images, texts = np.unique(data.pairs[:, 0]), np.unique(data.pairs[:, 1])
    words = [data.texts[text] for text in texts]
    words = words if raw_text else [normalize_text(text) for text in words]
    skipped: list[tuple[str, str]] = []
    with _evaluating(model), torch.inference_mode():
        numbers, rows = [], [_nothing(model)]
        loader = DataLoader(
            _Images(data, images[world.rank :: world.size], inputs),
            batch_size=batch_size,
            num_workers=workers,
            collate_fn=_separate,
            generator=torch.Generator(),  # of its own: it takes nothing from training's
            worker_init_fn=leave_group,
        )
        for some, pixels, bad in loader:
            skipped += bad
            numbers += some
            if some:
                with autocast():
                    rows.append(model.encode_image(pixels.to(world.device)).cpu().numpy())
            if world.size == 1 and stop():
                return None
        mine = slice(world.rank, None, world.size)
        text_rows = [_nothing(model)]
        own = words[mine]
        for start in range(0, len(own), batch_size):
            ids = inputs.ids(own[start : start + batch_size])
            with autocast():
                text_rows.append(model.encode_text(ids.to(world.device)).cpu().numpy())
            if world.size == 1 and stop():
                return None
    parts = world.objects(
        (numbers, np.concatenate(rows), texts[mine], np.concatenate(text_rows), skipped)
    )
    found = np.concatenate([part[0] for part in parts]).astype(np.int64)
    known = np.concatenate([part[2] for part in parts])
    told = [one for part in parts for one in part[4]]
    if len(found) == 0:
        raise DatasetError(f"{data.name}, {data.split}: no image can be read: {told[:1]}")
    order, text_order = np.argsort(found), np.argsort(known)
    recalls = _recalls(
        data.pairs,
        found[order],
        np.concatenate([part[1] for part in parts])[order],
        known[text_order],
        np.concatenate([part[3] for part in parts])[text_order],
    )
    return Validation(*recalls, told)


def _recalls(
    pairs: NDArray[np.int64],
    images: NDArray[np.int64],
    image_rows: NDArray[np.float32],
    texts: NDArray[np.int64],
    text_rows: NDArray[np.float32],
) -> tuple[Recall, Recall]:
    """Text to image, image to text; images and texts rise, and have a row each."""
    pairs = pairs[np.isin(pairs[:, 0], images)]
    forth, back = mutual_top_k(text_rows, image_rows, 10)
    of_text = _answers(pairs[:, 1], np.searchsorted(images, pairs[:, 0]), texts)
    of_image = _answers(pairs[:, 0], np.searchsorted(texts, pairs[:, 1]), images)
    return (
        recall_at_k(*_asked(forth.indices, of_text)),
        recall_at_k(*_asked(back.indices, of_image)),
    )


def _answers(
    queries: NDArray[np.int64], answers: NDArray[np.int64], known: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    """For each of the known queries what is right."""
    order = np.argsort(queries, kind="stable")
    queries, answers = queries[order], answers[order]
    starts, ends = (np.searchsorted(queries, known, side=side) for side in ("left", "right"))
    return [answers[start:end] for start, end in zip(starts, ends, strict=True)]


def _asked(
    ranked: NDArray[np.int64], right: list[NDArray[np.int64]]
) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """Without the queries of which nothing is right: those whose images could not be read."""
    some = np.array([len(answers) > 0 for answers in right])
    return ranked[some], [answers for answers in right if len(answers)]


def _nothing(model: TrainableClip) -> NDArray[np.float32]:
    return np.empty((0, model.config.embed_dim), np.float32)


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {name: module.training for name, module in model.named_modules()}
    model.eval()
    try:
        yield
    finally:
        for name, module in model.named_modules():
            module.training = modes[name]
