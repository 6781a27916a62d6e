"""The numbers of ModelScope, on both golden models, whatever the batch and the way of giving."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cnclip.pipelines import MultiModalEmbeddingPipeline, pipeline
from tests.support.twins.image import pillow_tensor

TOLERANCE = 2e-6
MODELS = ["tiny-vit", "tiny-rn"]
GOLDEN = Path(__file__).parents[1] / "data" / "golden"
WAYS: dict[str, Callable[[Path], Any]] = {
    "path": str,
    "Path": lambda path: path,
    "bytes": Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "file URL": lambda path: path.as_uri(),
    "data URL": lambda path: (
        f"data:{mimetypes.guess_type(path.name)[0]};base64,"
        + base64.b64encode(path.read_bytes()).decode()
    ),
    "array": lambda path: np.asarray(opened(path)),
    "opened": lambda path: opened(path),
}


@dataclass
class Case:
    pipeline: MultiModalEmbeddingPipeline
    answers: Any
    images: list[Image.Image]

    def check_texts(self, rows: Any, order: Any = slice(None)) -> None:
        check(rows, self.answers["text_embedding"][order])

    def check_images(self, rows: Any, order: Any = slice(None)) -> None:
        check(rows, self.answers["img_embedding"][order])


def check(rows: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    assert rows.dtype == np.float32
    assert rows.shape == expected.shape
    np.testing.assert_allclose(rows, expected, rtol=0, atol=TOLERANCE)


def opened(path: Path) -> Image.Image:
    """What ModelScope's load_image gives."""
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


@pytest.fixture(scope="module", params=MODELS)
def case(request: pytest.FixtureRequest, image_paths: list[Path]) -> Case:
    answers = dict(np.load(GOLDEN / f"{request.param}.npz"))
    assert [path.name for path in image_paths] == answers["image_names"].tolist()
    images = []
    for path in image_paths:
        with Image.open(path) as image:
            image.load()
            images.append(image)
    return Case(pipeline(model=GOLDEN / request.param, device="cpu"), answers, images)


def test_ids_are_equal(case: Case, texts: list[str]) -> None:
    ids = case.pipeline.preprocess({"text": texts})["text"]
    assert ids.dtype == np.int64
    assert np.array_equal(ids, case.answers["token_ids"])


def test_ids_are_equal_one_by_one(case: Case, texts: list[str]) -> None:
    for text, expected in zip(texts, case.answers["token_ids"], strict=True):
        assert np.array_equal(case.pipeline.preprocess({"text": text})["text"], expected[None])


def test_pixels_are_equal_to_the_bit(case: Case, image_paths: list[Path]) -> None:
    pixels = case.pipeline.preprocess({"img": case.images})["img"]
    assert pixels.dtype == np.float32
    differing = [
        path.name
        for path, some, expected in zip(image_paths, pixels, case.answers["pixels"], strict=True)
        if not np.array_equal(some.view(np.uint32), expected.view(np.uint32))
    ]
    assert not differing


def test_temperature(case: Case) -> None:
    temperature = case.pipeline.model.temperature
    assert temperature.shape == ()
    assert temperature.dtype == np.float32
    assert temperature == case.answers["temperature"]


def test_embeddings_one_by_one(case: Case, texts: list[str]) -> None:
    forward = case.pipeline.forward
    case.check_texts(np.concatenate([forward({"text": text})["text_embedding"] for text in texts]))
    case.check_images(
        np.concatenate([forward({"img": img})["img_embedding"] for img in case.images])
    )


@pytest.mark.parametrize("batch_size", [None, 1, 2, 3, 7, 32, 1000])
def test_embeddings_in_batches(case: Case, texts: list[str], batch_size: int | None) -> None:
    answer = case.pipeline.forward({"img": case.images, "text": texts}, batch_size=batch_size)
    case.check_images(answer["img_embedding"])
    case.check_texts(answer["text_embedding"])


@pytest.mark.parametrize("seed", range(3))
def test_rows_keep_the_order_of_the_items(case: Case, texts: list[str], seed: int) -> None:
    random = np.random.default_rng(seed)
    images = random.integers(len(case.images), size=40)
    words = random.integers(len(texts), size=200)
    answer = case.pipeline.forward(
        {"img": [case.images[i] for i in images], "text": [texts[i] for i in words]},
        batch_size=int(random.integers(1, 50)),
    )
    case.check_images(answer["img_embedding"], images)
    case.check_texts(answer["text_embedding"], words)


def test_more_texts_than_are_sorted_at_once(case: Case, texts: list[str]) -> None:
    order = np.random.default_rng(7).integers(len(texts), size=4200)
    case.check_texts(
        case.pipeline.forward({"text": [texts[i] for i in order]})["text_embedding"], order
    )


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_giving_a_image(case: Case, image_paths: list[Path], way: str) -> None:
    resolution = case.pipeline.model.info.resolution
    given = [WAYS[way](path) for path in image_paths]
    pixels = case.pipeline.preprocess({"img": given})["img"]
    expected = np.stack([pillow_tensor(opened(path), resolution) for path in image_paths])
    assert np.array_equal(pixels, expected)
    turned = [opened(path) for path in image_paths]
    check(
        case.pipeline.forward({"img": given})["img_embedding"],
        case.pipeline.forward({"img": turned}, batch_size=1)["img_embedding"],
    )


def test_images_from_a_server(
    case: Case, image_paths: list[Path], serve: Callable[..., str]
) -> None:
    content = {path.name: path.read_bytes() for path in image_paths}

    def respond(handler: Any) -> None:
        body = content[handler.path[1:]]
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    url = serve(respond)
    pixels = case.pipeline.preprocess({"img": [url + path.name for path in image_paths]})["img"]
    resolution = case.pipeline.model.info.resolution
    expected = np.stack([pillow_tensor(opened(path), resolution) for path in image_paths])
    assert np.array_equal(pixels, expected)


def test_different_ways_in_one_list(case: Case, image_paths: list[Path]) -> None:
    ways = list(WAYS.values())
    given = [ways[i % len(ways)](path) for i, path in enumerate(image_paths)]
    resolution = case.pipeline.model.info.resolution
    expected = np.stack([pillow_tensor(opened(path), resolution) for path in image_paths])
    assert np.array_equal(case.pipeline.preprocess({"img": given})["img"], expected)


def test_a_image_given_open_is_not_turned(case: Case, image_paths: list[Path]) -> None:
    index = [path.name for path in image_paths].index("exif_rot.jpg")
    as_is = case.pipeline.preprocess({"img": case.images[index]})["img"]
    turned = case.pipeline.preprocess({"img": image_paths[index]})["img"]
    assert np.array_equal(as_is[0], case.answers["pixels"][index])
    assert not np.array_equal(as_is, turned)


def test_rows_are_of_unit_length(case: Case, texts: list[str]) -> None:
    answer = case.pipeline.forward({"img": case.images, "text": texts})
    for rows in answer.values():
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=0, atol=1e-6)
