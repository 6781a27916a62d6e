"""The tests of this folder need a GPU that the installed torch can use, or are skipped.

They compare with the CPU, whose results the other tests compare with ModelScope's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnclip.benchmark import random_archive
from cnclip.checkpoints.vocabulary import PUBLISHED_VOCABULARY
from cnclip.engine import cuda_count
from cnclip.pipelines import MultiModalEmbeddingPipeline, pipeline
from tests.support.training import write_training_pairs, write_training_sizes

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    of_gpu = [item for item in items if HERE in item.path.parents]
    if not of_gpu:
        return
    found = cuda_count()
    for item in of_gpu:
        item.add_marker(pytest.mark.gpu)
        if found == 0:
            item.add_marker(pytest.mark.skip(reason="no GPU that torch can use"))


@pytest.fixture(scope="session")
def large_archive() -> Iterator[Path]:
    """The archive of a ViT-B-16 with random weights."""
    with random_archive("ViT-B-16") as path:
        yield path


@pytest.fixture(scope="session")
def large_on_cpu(large_archive: Path) -> MultiModalEmbeddingPipeline:
    """That model on the CPU in fp32."""
    return pipeline(model=large_archive, device="cpu")


@pytest.fixture(scope="session")
def different_images() -> list[Image.Image]:
    """200 images from one colour to noise, of which no two are nearly equal."""
    random = np.random.default_rng(5)
    images = []
    for number in range(200):
        cells = int(random.integers(1, 24))
        colours = random.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        side = int(random.integers(40, 400)) if number % 3 else 224
        images.append(Image.fromarray(colours).resize((side, side), Image.Resampling.NEAREST))
    return images


@pytest.fixture(scope="session")
def different_texts() -> list[str]:
    """300 texts of 1 to 60 characters: up to 52 ids, and more, which are cut."""
    random = np.random.default_rng(6)
    words = PUBLISHED_VOCABULARY.read_text(encoding="utf-8").splitlines()
    characters = [word for word in words if len(word) == 1 and "\u4e00" <= word <= "\u9fff"]
    return ["".join(random.choice(characters, number % 60 + 1)) for number in range(300)]


@pytest.fixture(scope="session")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sizes of a small model and a vocabulary, without weights."""
    return write_training_sizes(tmp_path_factory.mktemp("sizes"))


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with 64 pairs for training and 20 for validation."""
    return write_training_pairs(tmp_path_factory.mktemp("pairs"))
