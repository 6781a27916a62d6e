"""The data of a run: the order of pairs, how texts are drawn, augmentation, parts of batches."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

torch = pytest.importorskip("torch")

import cnclip  # noqa: E402
from cnclip.datasets import Problems, open_pairs, write_split  # noqa: E402
from cnclip.train.augment import augment  # noqa: E402
from cnclip.train.loader import Preprocessing, TrainingPairs, training_parts  # noqa: E402
from cnclip.train.options import POLICIES, TrainOptions  # noqa: E402
from cnclip.train.process import World  # noqa: E402

VOCABULARY = (Path(cnclip.__file__).parent / "assets" / "emoji-cn" / "vocab.txt").read_bytes()
PREPROCESSING = (Preprocessing(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), VOCABULARY, 12),)


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 20), (number % 256, number // 256, 7)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """30 images with a name each; one text that describes ten of them."""
    folder = tmp_path_factory.mktemp("data")
    texts = [(i, f"图{i}", [i]) for i in range(30)]
    write_split(
        folder, "train", [(i, png(i)) for i in range(30)], [*texts, (99, "全部", range(10))]
    )
    return open_pairs(folder, problems=Problems(strict=True))


def texts_at(pairs: TrainingPairs, positions: Any) -> list[str]:
    return [pairs[position].text for position in positions]


def test_an_epoch_has_every_pair_once(data: Any) -> None:
    pairs = TrainingPairs(data, TrainOptions(), PREPROCESSING)
    assert pairs.size == 40
    first, second = texts_at(pairs, range(40)), texts_at(pairs, range(40, 80))
    assert Counter(first) == Counter(second)
    assert Counter(first)["全部"] == 10 and len(set(first)) == 31
    assert first != second
    other = TrainingPairs(data, TrainOptions(seed=5), PREPROCESSING)
    assert texts_at(other, range(40)) != first


def test_an_epoch_of_images_has_each_once(data: Any) -> None:
    options = TrainOptions(sampling="images")
    pairs = TrainingPairs(data, options, PREPROCESSING)
    assert pairs.size == 30
    for epoch in range(3):
        samples = [pairs[position] for position in range(30 * epoch, 30 * epoch + 30)]
        assert len({int(sample.pairs.images) for sample in samples}) == 30
    drawn = Counter(texts_at(pairs, range(30 * 40)))["全部"]
    assert 120 < drawn < 280  # half of 400
    rare = TrainingPairs(data, TrainOptions(sampling="images", rare_texts=2.0), PREPROCESSING)
    assert Counter(texts_at(rare, range(30 * 40)))["全部"] < 20  # a weight of 1 / 100


def test_a_position_does_not_depend_on_what_came_before(data: Any) -> None:
    options = TrainOptions(sampling="images", augment="photo")
    pairs = TrainingPairs(data, options, PREPROCESSING)
    again = TrainingPairs(data, options, PREPROCESSING)
    for position in (57, 3, 111, 57):
        a, b = pairs[position], again[position]
        assert a.text == b.text
        np.testing.assert_array_equal(a.pixels[0], b.pixels[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_share_a_batch(data: Any, workers: int) -> None:
    """Two processes with parts of 4 have the same pairs in each step as one with parts of 8."""
    device = torch.device("cpu")

    def steps_of(size: int, world: World, start: int = 0) -> list[Any]:
        options = TrainOptions(batch_size=size, accum_freq=2)
        pairs = TrainingPairs(data, options, PREPROCESSING)
        loader = training_parts(pairs, world, workers, start, 6)
        parts = [part.pairs.images.tolist() for part, _ in loader]
        return [first + second for first, second in zip(parts[::2], parts[1::2], strict=True)]

    whole = steps_of(8, World(0, 1, device))
    halves = [steps_of(4, World(rank, 2, device)) for rank in range(2)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole
    assert steps_of(8, World(0, 1, device), start=4) == whole[4:]


def test_parts_have_the_shapes_and_types_of_the_model(data: Any) -> None:
    options = TrainOptions(batch_size=5)
    pairs = TrainingPairs(data, options, PREPROCESSING)
    world = World(0, 1, torch.device("cpu"))
    part, skipped = next(iter(training_parts(pairs, world, 0, 0, 1)))
    assert part.pixels.shape == (5, 3, 16, 16) and part.pixels.dtype == torch.float32
    assert part.ids.shape[0] == 5 and part.ids.shape[1] <= 6 and part.ids.dtype == torch.int64
    assert not skipped and part.teacher is None
    # Keys: an image's own text is among those that describe it.
    assert bool((part.pairs.described == part.pairs.texts[:, None]).any(1).all())


def test_blocks_of_storage_are_read_a_few_at_a_time(data: Any) -> None:
    class InBlocks:
        def __init__(self, inner: Any, count: int) -> None:
            self.name, self.split, self.turns_images = inner.name, inner.split, False
            self.image_ids = list(range(count))
            self.texts = [str(i) for i in range(count)]
            self.pairs = np.stack([np.arange(count)] * 2, axis=1)
            self.groups, self.groups_kept = np.arange(count) // 10, 8

    blocked = InBlocks(data, 1000)
    pairs = TrainingPairs(blocked, TrainOptions(), PREPROCESSING)  # type: ignore[arg-type]
    order = pairs._order_of(0)
    assert sorted(order.tolist()) == list(range(1000))
    for start in range(0, 960, 80):
        assert len(set((order[start : start + 80] // 10).tolist())) == 8
    assert not np.array_equal(order, np.sort(order))
    assert not np.array_equal(pairs._order_of(1), order)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(POLICIES),
    st.sampled_from(["RGB", "L", "1", "P", "RGBA", "CMYK", "I;16"]),
    st.integers(0, 2**32),
)
def test_augmentation_of_every_size_and_mode(
    width: int, height: int, policy: str, mode: str, seed: int
) -> None:
    image = Image.new(mode, (width, height))
    changed = augment(image, policy, np.random.default_rng(seed))
    assert min(changed.size) >= 1
    if policy == "none":
        assert changed is image
        return
    assert changed.mode == "RGB"
    again = augment(image, policy, np.random.default_rng(seed))
    assert changed.tobytes() == again.tobytes()


@pytest.mark.parametrize("policy", ["photo", "auto", "drawing"])
def test_augmentation_changes_images_but_not_beyond_recognition(policy: str) -> None:
    gallery = Path(cnclip.__file__).parent / "assets" / "gallery"
    files = sorted(gallery.glob("1f6*.png"))[:12]
    images = [Image.open(path).convert("RGB").resize((64, 64)) for path in files]
    p = cnclip.pipeline(model="emoji-cn", device="cpu")
    rows = p.forward({"img": images})["img_embedding"]
    random = np.random.default_rng(0)
    changed = [augment(image, policy, random, 64) for image in images]
    unchanged = sum(a.tobytes() == b.tobytes() for a, b in zip(images, changed, strict=True))
    assert unchanged <= (policy == "auto")  # whose operations all have a probability
    found = p.forward({"img": changed})["img_embedding"] @ rows.T
    assert np.diag(found).mean() > found[~np.eye(12, dtype=bool)].mean() + 0.1
