"""A model by its name: opened late, and again in other processes."""

from __future__ import annotations

import io
import os
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from copy import deepcopy
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnclip import pipeline
from cnclip.errors import (
    InputTypeError,
    MissingExtraError,
    ModelMismatchError,
    ModelNotFoundError,
)
from cnclip.integrations import named_model
from cnclip.integrations.named_model import NamedModel
from cnclip.pipelines import MultiModalEmbeddingPipeline
from tests.integrations.conftest import TEXTS, Rows

MODULES = {
    "langchain": ("langchain", "langchain_core"),
    "llama_index": ("llama-index", "llama_index"),
    "chroma": ("chroma", "chromadb"),
    "milvus": ("milvus-model", "pymilvus"),
    "sklearn": ("sklearn", "sklearn"),
}


def test_embeds_as_the_pipeline(
    named: Any, images: list[str], image_rows: Rows, text_rows: Rows
) -> None:
    model = NamedModel(named, device="cpu")
    np.testing.assert_allclose(model.embed_texts(TEXTS), text_rows, atol=1e-6)
    np.testing.assert_allclose(model.embed_images(images, 2), image_rows, atol=1e-6)
    assert model.embed_texts([]).shape == model.embed_images([]).shape == (0, model.dim)
    content = Path(images[0]).read_bytes()
    others = [
        {"bytes": content, "path": None},
        {"bytes": None, "path": images[0]},
        io.BytesIO(content),
        Image.open(images[0]),
        content,
    ]
    with open(images[0], "rb") as file:
        rows = model.embed_images([*others, file])
    np.testing.assert_allclose(rows, np.repeat(image_rows[:1], len(rows), axis=0), atol=1e-6)


def test_bad_items_are_named(model: MultiModalEmbeddingPipeline, images: list[str]) -> None:
    with pytest.raises(InputTypeError, match=r"img\[1\]: expected PIL"):
        NamedModel(model).embed_images([images[0], None])
    with pytest.raises(InputTypeError, match=r"text\[1\]: expected str, got int"):
        NamedModel(model).embed_texts(["猫", 1])  # type: ignore[list-item]


def test_opened_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def watched(**options: Any) -> MultiModalEmbeddingPipeline:
        opened.append(options["model"])
        return pipeline(**options)

    monkeypatch.setattr(named_model, "pipeline", watched)
    model = NamedModel("emoji-cn", device="cpu")
    assert model.dim == 128
    pickle.dumps(model)
    assert not opened
    with ThreadPoolExecutor(4) as threads:
        assert len(list(threads.map(model.embed_texts, [TEXTS] * 8))) == 8
    assert opened == ["emoji-cn"]
    assert deepcopy(model) is model


def test_a_missing_model_is_named() -> None:
    model = NamedModel("no-such-model")
    for use in (lambda: model.dim, lambda: model.embed_texts(TEXTS), lambda: pickle.dumps(model)):
        with pytest.raises(ModelNotFoundError, match="no-such-model"):
            use()


def test_texts_as_the_model_was_trained(
    model: MultiModalEmbeddingPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = "“猫”", '"猫"'
    assert not np.array_equal(*NamedModel(model).embed_texts([one, other]))
    monkeypatch.setattr(type(model.model.info), "normalizes_texts", True)
    np.testing.assert_allclose(*NamedModel(model).embed_texts([one, other]), atol=1e-6)


def embedded(model: NamedModel) -> Rows:
    return model.embed_texts(TEXTS)


def test_pickled_by_name(named: Any, text_rows: Rows) -> None:
    model = NamedModel(named, device="cpu")
    assert len(pickle.dumps(model)) < 1000
    again = pickle.loads(pickle.dumps(model))
    assert (again.name, again.device, again.precision) == (model.name, "cpu", "fp32")
    np.testing.assert_allclose(again.embed_texts(TEXTS), text_rows, atol=1e-6)


@pytest.mark.slow
def test_in_another_process(named: Any, text_rows: Rows) -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as processes:
        rows = processes.submit(embedded, NamedModel(named, device="cpu")).result()
    np.testing.assert_allclose(rows, text_rows, atol=1e-6)


def test_a_path_is_valid_in_other_folders(
    copied_model: Path, monkeypatch: pytest.MonkeyPatch, text_rows: Rows
) -> None:
    monkeypatch.chdir(copied_model.parent)
    model = pickle.loads(pickle.dumps(NamedModel("copied", device="cpu")))
    monkeypatch.chdir("/")
    assert model.name == str(copied_model)
    np.testing.assert_allclose(model.embed_texts(TEXTS), text_rows, atol=1e-6)


def test_another_model_of_the_name_is_refused(copied_model: Path, vit_directory: Path) -> None:
    content = pickle.dumps(NamedModel(copied_model, device="cpu"))
    shutil.rmtree(copied_model)
    shutil.copytree(vit_directory, copied_model)
    with pytest.raises(ModelMismatchError, match=r"copied: is another model here \(\w{12}\) than"):
        pickle.loads(content).embed_texts(TEXTS)


def test_a_gpu_may_have_another_number(
    model: MultiModalEmbeddingPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.model, "device", "cuda:3")
    assert NamedModel(model).device == "gpu:3"


@pytest.mark.parametrize("module", MODULES)
def test_the_extra_is_named(module: str, run_python: Callable[..., Any]) -> None:
    extra, package = MODULES[module]
    missing = "pymilvus.model" if package == "pymilvus" else package
    code = (
        "import sys\n"
        f"sys.modules[{missing!r}] = None\n"
        "from cnclip.errors import MissingExtraError\n"
        "try:\n"
        f"    import cnclip.integrations.{module}\n"
        "except MissingExtraError as error:\n"
        "    print(error.extra, '|', error)\n"
    )
    found, message = run_python(code).stdout.split(" | ")
    assert found == extra
    assert message.rstrip().endswith(f"is not installed: pip install 'cnclip[{extra}]'")
    assert issubclass(MissingExtraError, ImportError)


def test_the_model_is_not_imported_by_a_plug_in(run_python: Callable[..., Any]) -> None:
    # Nor is any library that only another plug-in uses.
    code = "import sys, cnclip.integrations.columns as c; print(*sys.modules)"
    loaded = set(run_python(code, **os.environ).stdout.split())
    assert not loaded & {
        "torch",
        "langchain_core",
        "llama_index",
        "chromadb",
        "sklearn",
        "datasets",
    }
