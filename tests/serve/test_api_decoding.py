"""decode='fast' of the server: embeddings, search in collections, immich, the application."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnclip import bulk, pipeline
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.search import index_embeddings
from cnclip.serve import Searchable, open_folder
from tests.support.photos import write_photos

pytest.importorskip("fastapi", reason="fastapi is not installed, cnclip's extra `serve`")
pytest.importorskip("faiss", reason="faiss-cpu is not installed, cnclip's extra `serve`")
from tests.support.api import as_base64, served_by


@pytest.fixture(scope="module")
def fast() -> MultiModalEmbeddingPipeline:
    return pipeline(model="emoji-cn", device="cpu", decode="fast")


@pytest.fixture(scope="module")
def photos(
    tmp_path_factory: pytest.TempPathFactory, embedder: MultiModalEmbeddingPipeline
) -> list[Path]:
    folder = tmp_path_factory.mktemp("decoding") / "photos"
    return write_photos(folder, 4, 5 * embedder.preprocessor.image_resolution)


@pytest.fixture(scope="module")
def client(
    fast: MultiModalEmbeddingPipeline,
    embedder: MultiModalEmbeddingPipeline,
    photos: list[Path],
) -> Iterator[Any]:
    """A server that embeds fast, with a collection of each decoding."""
    folder = photos[0].parent
    collections = []
    for name in ("fast", "exact"):
        out = folder.parent / name
        options = bulk.EmbedOptions(dtype="float32", decode=name)  # type: ignore[arg-type]
        bulk.embed(folder, embedder, out, options)
        collections.append(Searchable(name, index_embeddings(out), fast))
    gallery, failed = open_folder(folder, fast)
    assert not failed
    collections.append(gallery)
    with served_by(fast, collections=tuple(collections), immich=True) as (client, _):
        yield client


def test_embeddings(client: Any, photos: list[Path], fast: MultiModalEmbeddingPipeline) -> None:
    want = fast.forward({"img": [str(path) for path in photos]})["img_embedding"]
    contents = [path.read_bytes() for path in photos]
    body = {"input": [{"image": as_base64(one)} for one in contents]}
    found = client.post("/v1/embeddings", json=body).json()["data"]
    np.testing.assert_allclose([one["embedding"] for one in found], want, atol=2e-6)
    one = client.post(
        "/v1/embeddings", content=contents[0], headers={"Content-Type": "image/jpeg"}
    ).json()["data"]
    np.testing.assert_allclose(one[0]["embedding"], want[0], atol=2e-6)
    form = {"entries": '{"clip": {"visual": {"modelName": "x"}}}'}
    answer = client.post("/predict", data=form, files={"image": contents[0]}).json()
    row = np.array(json.loads(answer["clip"]))
    np.testing.assert_allclose(row, want[0], atol=2e-6)
    assert client.get("/v1/models").json()["data"][0]["decode"] == "fast"


@pytest.mark.parametrize("collection", ["fast", "exact", "photos"])
def test_a_search_decodes_as_the_collection(
    client: Any, photos: list[Path], collection: str
) -> None:
    body = {"collection": collection, "image": as_base64(photos[1].read_bytes()), "k": 1}
    found = client.post("/v1/search", json=body).json()["results"][0]
    assert Path(found["path"]).name == photos[1].name
    assert found["score"] == pytest.approx(1, abs=2e-6)


def test_the_application_embeds_a_folder_as_its_pipeline(
    client: Any, fast: MultiModalEmbeddingPipeline, photos: list[Path]
) -> None:
    searchable, _ = open_folder(photos[0].parent, fast)
    want = {"background": "white", "depth": "scale", "decode": "fast"}
    assert searchable.collection.image_options == want


def test_bad_images_are_named_as_before(client: Any, photos: list[Path]) -> None:
    cut = photos[0].read_bytes()[:2000]
    for collection in ("fast", "exact"):
        body = {"collection": collection, "image": as_base64(cut)}
        answer = client.post("/v1/search", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "image"
    answer = client.post("/v1/embeddings", json={"input": [{"image": as_base64(cut)}]})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "input[0]"
