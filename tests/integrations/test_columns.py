"""`EmbedColumns`: with `datasets`, Ray Data and Daft, and without them."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest

from cnclip.errors import ForkedProcessError, InvalidInputError, ModelNotFoundError
from cnclip.integrations.columns import EmbedColumns
from tests.integrations.conftest import TEXTS, Rows


def test_a_batch_and_a_row(
    named: Any, images: list[str], image_rows: Rows, text_rows: Rows
) -> None:
    embed = EmbedColumns(named, image="photo", text="title", text_embedding="t", device="cpu")
    found = embed({"photo": images, "title": TEXTS, "other": [1, 2, 3]})
    assert list(found) == ["image_embedding", "t"]
    np.testing.assert_allclose(found["image_embedding"], image_rows, atol=1e-6)
    np.testing.assert_allclose(found["t"], text_rows, atol=1e-6)
    found = embed({"photo": images[1], "title": TEXTS[1]})
    np.testing.assert_allclose(found["image_embedding"], image_rows[1], atol=1e-6)
    np.testing.assert_allclose(found["t"], text_rows[1], atol=2e-6)


@pytest.mark.parametrize("kind", [np.array, lambda v: np.array(v, object), pyarrow.array, tuple])
def test_kinds_of_columns(
    model: Any, images: list[str], image_rows: Rows, text_rows: Rows, kind: Callable[[Any], Any]
) -> None:
    embed = EmbedColumns(model, image="photo", text="title")
    found = embed({"photo": kind(images), "title": kind(TEXTS)})
    np.testing.assert_allclose(found["image_embedding"], image_rows, atol=1e-6)
    np.testing.assert_allclose(found["text_embedding"], text_rows, atol=1e-6)


def test_columns_that_are_missing(model: Any) -> None:
    with pytest.raises(InvalidInputError, match="photo: no such column; the batch has image, text"):
        EmbedColumns(model, image="photo")({"image": [], "text": []})
    with pytest.raises(InvalidInputError, match="expected image='COLUMN', text='COLUMN' or both"):
        EmbedColumns(model)


# --- datasets -------------------------------------------------------------------------------------


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    # The folder of the tests has a subfolder `datasets`, which can be imported too.
    pytest.importorskip("datasets.arrow_dataset", reason="datasets is not installed")
    found = importlib.import_module("datasets")
    monkeypatch.setattr(found.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    found.disable_progress_bars()
    return found


@pytest.fixture
def data(datasets: Any, images: list[str], tmp_path: Path) -> Any:
    """Images and texts on the disk, where results are cached next to them."""
    made = datasets.Dataset.from_dict({"image": images, "caption": TEXTS})
    made.cast_column("image", datasets.Image()).save_to_disk(str(tmp_path / "data"))
    return datasets.load_from_disk(str(tmp_path / "data"))


@pytest.mark.filterwarnings("ignore")
def test_map(named: Any, data: Any, datasets: Any, image_rows: Rows, text_rows: Rows) -> None:
    embed = EmbedColumns(named, image="image", text="caption", device="cpu")
    undecoded = data.cast_column("image", datasets.Image(decode=False))
    for made in (
        data.map(embed, batched=True, batch_size=2),
        data.map(embed),
        undecoded.map(embed, batched=True),
    ):
        found = made.with_format("numpy")
        np.testing.assert_allclose(np.stack(found["image_embedding"]), image_rows, atol=1e-6)
        np.testing.assert_allclose(np.stack(found["text_embedding"]), text_rows, atol=2e-6)
        assert made.features["image_embedding"].feature.dtype == "float32"


@pytest.mark.filterwarnings("ignore")
def test_results_are_found_again(
    data: Any, datasets: Any, copied_model: Path, vit_directory: Path, monkeypatch: Any
) -> None:
    calls = []
    embed_images = EmbedColumns.__call__

    def counted(self: EmbedColumns, batch: Any) -> Any:
        calls.append(len(batch["image"]))
        return embed_images(self, batch)

    monkeypatch.setattr(EmbedColumns, "__call__", counted)
    for _ in range(2):
        embed = EmbedColumns(copied_model, image="image", device="cpu")
        data.map(embed, batched=True)
        embed({"image": ["x"][:0]})  # open now, which changes nothing
        calls.pop()
        data.map(embed, batched=True)
    assert calls == [3]
    # Another model of this name embeds again; so do other columns.
    shutil.rmtree(copied_model)
    shutil.copytree(vit_directory, copied_model)
    other = data.map(EmbedColumns(copied_model, image="image", device="cpu"), batched=True)
    assert calls == [3, 3]
    assert len(other[0]["image_embedding"]) != 128
    hashes = {
        datasets.fingerprint.Hasher.hash(EmbedColumns("emoji-cn", **columns))
        for columns in (
            {"image": "a"},
            {"image": "b"},
            {"text": "a"},
            {"text": "a", "device": "cpu"},
        )
    }
    assert len(hashes) == 4


@pytest.mark.filterwarnings("ignore")
def test_stable_in_another_process(
    datasets: Any, run_python: Callable[..., Any], tmp_path: Path
) -> None:
    code = (
        "import datasets; from cnclip.integrations.columns import EmbedColumns\n"
        "print(datasets.fingerprint.Hasher.hash(EmbedColumns('emoji-cn', image='a')))"
    )
    here = datasets.fingerprint.Hasher.hash(EmbedColumns("emoji-cn", image="a"))
    assert run_python(code, PYTHONHASHSEED="7").stdout.strip() == here


PROCESSES = """
import sys
import datasets, numpy
from cnclip.errors import ForkedProcessError
from cnclip.integrations.columns import EmbedColumns

data = datasets.load_from_disk(sys.argv[1])
embed = EmbedColumns("emoji-cn", image="image", device="cpu")
made = data.map(embed, batched=True, num_proc=2)
numpy.save(sys.argv[2], numpy.array(made["image_embedding"], numpy.float32))
embed({"image": []})
try:
    data.map(embed, batched=True, num_proc=2, load_from_cache_file=False)
except ForkedProcessError as error:
    print("refused")
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_several_processes(
    data: Any, run_python: Callable[..., Any], tmp_path: Path, image_rows: Rows
) -> None:
    done = run_python(PROCESSES, tmp_path / "data", tmp_path / "rows.npy", timeout=300)
    assert done.stdout.strip() == "refused"
    np.testing.assert_allclose(np.load(tmp_path / "rows.npy"), image_rows, atol=1e-6)
    assert issubclass(ForkedProcessError, RuntimeError)


@pytest.mark.filterwarnings("ignore")
def test_a_missing_model_is_named(data: Any) -> None:
    with pytest.raises(ModelNotFoundError, match="no-such-model"):
        data.map(EmbedColumns("no-such-model", image="image"), batched=True)


# --- Others ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_daft(images: list[str], image_rows: Rows) -> None:
    daft = pytest.importorskip("daft", reason="daft is not installed")
    vector = daft.DataType.embedding(daft.DataType.float32(), 128)

    @daft.udf(return_dtype=vector, batch_size=2)
    class Embed:
        def __init__(self) -> None:
            self.embed = EmbedColumns("emoji-cn", image="image", device="cpu")

        def __call__(self, image: Any) -> Any:
            return self.embed({"image": image.to_pylist()})["image_embedding"]

    frame = daft.from_pydict({"path": images})
    made = frame.with_column("embedding", Embed(daft.col("path"))).to_pydict()
    np.testing.assert_allclose(np.stack(made["embedding"]), image_rows, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray(images: list[str], image_rows: Rows, run_python: Callable[..., Any]) -> None:
    pytest.importorskip("ray.data", reason="ray is not installed")
    code = """
import json, sys, ray
from cnclip.integrations.columns import EmbedColumns

class Embed:
    def __init__(self, model):
        self.embed = EmbedColumns(model, image="path", device="cpu")
    def __call__(self, batch):
        return {**batch, **self.embed(batch)}

ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
data = ray.data.from_items([{"path": path} for path in sys.argv[1:]])
data = data.map_batches(Embed, fn_constructor_args=("emoji-cn",), batch_size=2, concurrency=1)
print(json.dumps({row["path"]: row["image_embedding"].tolist() for row in data.take_all()}))
"""
    done = run_python(code, *images, timeout=300, PYTHONPATH=os.pathsep.join(sys.path))
    found = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose([found[path] for path in images], image_rows, atol=1e-6)
