"""Chroma's interface, with collections on the disk."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnclip.errors import InputTypeError, InvalidInputError
from tests.integrations.conftest import TEXTS, Rows

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    chromadb = pytest.importorskip("chromadb", reason="chromadb is not installed")
    from cnclip.integrations.chroma import CnclipEmbeddingFunction

pytestmark = pytest.mark.filterwarnings("ignore")


def array(path: str, mode: str = "RGB") -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image.convert(mode))


def test_embeds(named: Any, images: list[str], text_rows: Rows, model: Any) -> None:
    function = CnclipEmbeddingFunction(named, device="cpu")
    np.testing.assert_allclose(function(TEXTS), text_rows, atol=1e-6)
    np.testing.assert_allclose(function.embed_query(["狗"]), text_rows[1:2], atol=2e-6)
    arrays = [array(path) for path in images]
    rows = model.forward({"img": arrays})["img_embedding"]
    mixed = function([arrays[0], "狗", arrays[2]])
    np.testing.assert_allclose(mixed, [rows[0], text_rows[1], rows[2]], atol=2e-6)


@pytest.mark.parametrize("mode", ["L", "RGBA", "RGB"])
def test_modes_of_images(model: Any, images: list[str], mode: str) -> None:
    with Image.open(images[0]) as image:
        wanted = model.forward({"img": image.convert(mode)})["img_embedding"]
    found = CnclipEmbeddingFunction(model)([array(images[0], mode)])
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_other_items_are_named(model: Any) -> None:
    with pytest.raises(InputTypeError, match=r"input\[1\]: expected str or a uint8 array"):
        CnclipEmbeddingFunction(model)(["猫", np.zeros((4, 4, 3))])


def test_a_collection_on_the_disk(images: list[str], tmp_path: Path) -> None:
    from chromadb.utils.data_loaders import ImageLoader

    client = chromadb.PersistentClient(str(tmp_path))
    function = CnclipEmbeddingFunction("emoji-cn", device="cpu")
    made = client.create_collection(
        "photos", embedding_function=function, data_loader=ImageLoader()
    )
    made.add(ids=["cat", "dog", "car"], uris=images)
    # Another client finds the function by its name, and the model by its own.
    opened = client.get_collection("photos")
    assert opened.query(query_texts=["狗"], n_results=1)["ids"] == [["dog"]]
    found = opened.query(query_images=[array(images[2])], n_results=1)
    assert found["ids"] == [["car"]]
    assert found["distances"][0][0] < 1e-3  # of the cosine


def test_the_configuration(named: Any, text_rows: Rows) -> None:
    function = CnclipEmbeddingFunction(named, device="cpu")
    config = function.get_config()
    assert set(config) == {"model", "device", "precision", "num_threads"}
    again = CnclipEmbeddingFunction.build_from_config(config)
    assert again.get_config() == config
    np.testing.assert_allclose(again(TEXTS), text_rows, atol=1e-6)
    assert not function.is_legacy()
    assert CnclipEmbeddingFunction.name() == "cnclip"
    assert function.default_space() in function.supported_spaces()


def test_another_model_is_refused() -> None:
    function = CnclipEmbeddingFunction("emoji-cn")
    old = function.get_config()
    function.validate_config_update(old, {"model": "emoji-cn", "device": "cpu"})
    with pytest.raises(InvalidInputError, match="model: the collection has vectors of 'emoji-cn'"):
        function.validate_config_update(old, {"model": "another"})
    with pytest.raises(InvalidInputError, match="precision: the collection has vectors of 'fp32'"):
        function.validate_config_update(old, {"precision": "bf16"})
    with pytest.raises(InvalidInputError, match="config: expected model, .* got speed"):
        function.validate_config({**old, "speed": 1})
    with pytest.raises(InvalidInputError, match="config: model: expected the name of a model"):
        function.build_from_config({"device": "cpu"})
