"""ONNX: rows of ONNX Runtime are those of the archive; the files, and what is refused."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cnclip import cli, pipeline
from cnclip.benchmark import write_model_directory
from cnclip.checkpoints.modelscope import write_modelscope
from cnclip.checkpoints.published_sizes import PUBLISHED_SIZES
from cnclip.convert import FORMATS, convert
from cnclip.errors import (
    ArchiveError,
    CheckpointError,
    InvalidInputError,
    MissingExtraError,
    OutputExistsError,
)
from tests.support.families import checkpoint_of, smaller
from tests.support.onnx_rows import INPUTS, check_rows, run
from tests.support.small_vit import VOCABULARY, Make

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module", params=PUBLISHED_SIZES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ModelScope directory of a published family at reduced size. Read-only."""
    directory = tmp_path_factory.mktemp("models") / request.param
    directory.mkdir()
    write_modelscope(checkpoint_of(smaller(request.param)), directory)
    return directory


def test_rows_are_those_of_the_archive(family: Path, tmp_path: Path) -> None:
    folder = convert(family, tmp_path / "out", to="onnx")
    names = {"image.onnx", "text.onnx", "vocab.txt", "cnclip.json"}
    assert {file.name for file in folder.iterdir()} == names
    assert (folder / "vocab.txt").read_bytes() == (family / "vocab.txt").read_bytes()
    for tower, axes in (("image", ["batch", 3]), ("text", ["batch", "length"])):
        model = onnx.load(folder / f"{tower}.onnx")
        onnx.checker.check_model(model, full_check=True)
        assert [(one.domain, one.version) for one in model.opset_import] == [("", 17)]
        (given,), (found,) = model.graph.input, model.graph.output
        assert (given.name, found.name) == (INPUTS[tower], "unit_embedding")
        dims = given.type.tensor_type.shape.dim
        assert [dim.dim_param or dim.dim_value for dim in dims][:2] == axes
        assert "unit length" in found.doc_string
    check_rows(folder, family)
    deviations = json.loads((folder / "cnclip.json").read_text())["largest_deviation_from_torch"]
    assert all(0 < value < 1e-5 for value in deviations.values())


@pytest.mark.parametrize("family", ["RN50", "ViT-B-16"], indirect=True)
def test_half_stores_the_same_numbers_in_half_the_bytes(family: Path, tmp_path: Path) -> None:
    # ModelScope's software rounds to float16, so nothing is lost.
    single = convert(family, tmp_path / "single", to="onnx")
    half = convert(family, tmp_path / "half", to="onnx", half=True)
    check_rows(half, family)
    sizes = [(folder / "text.onnx").stat().st_size for folder in (half, single)]
    assert sizes[0] < 0.55 * sizes[1]
    pixels = np.zeros((1, 3, 48 if family.name == "ViT-B-16" else 64), np.float32)
    pixels = np.repeat(pixels[..., None], pixels.shape[2], axis=3)
    for tower, inputs in (("image", pixels), ("text", np.array([[2, 8, 3, 0]]))):
        assert np.array_equal(run(half, tower, inputs), run(single, tower, inputs))


@pytest.mark.slow
def test_a_model_of_published_size(tmp_path: Path) -> None:
    """ViT-B/16 whole; test_full_size.py has the largest too."""
    write_model_directory("ViT-B-16", tmp_path / "source")
    folder = convert(tmp_path / "source", tmp_path / "out", to="onnx")
    check_rows(folder, tmp_path / "source")
    for file in (*folder.iterdir(), *(tmp_path / "source").iterdir()):
        file.unlink()


@pytest.mark.parametrize("activation", ["gelu_new", "relu", "swish"])
def test_activations(make: Make, activation: str, tmp_path: Path) -> None:
    directory = make(text={"text_hidden_act": activation})
    check_rows(convert(directory, tmp_path / "out", to="onnx"), directory)


def test_sizes_that_no_published_model_has(make: Make, tmp_path: Path) -> None:
    # Images that are no multiple of the patch, [PAD] in another place, fewer positions than 52.
    words = [*VOCABULARY[1:], "[PAD]"]
    vision = {"image_resolution": 29, "vision_head_width": 7, "vision_width": 49}
    directory = make(vision=vision, text={"text_max_position_embeddings": 52}, vocabulary=words)
    folder = convert(directory, tmp_path / "out", to="onnx")
    facts = json.loads((folder / "cnclip.json").read_text())
    assert facts["tokenizer"]["pad_id"] == len(words) - 1
    check_rows(folder, directory)


def test_an_archive_is_a_source(vit_directory: Path, archive: Path, tmp_path: Path) -> None:
    folders = [
        convert(source, tmp_path / source.name, to="onnx") for source in (vit_directory, archive)
    ]
    for file in ("image.onnx", "text.onnx", "cnclip.json"):
        contents = {(folder / file).read_bytes() for folder in folders}
        assert len(contents) == 1, file


def test_weights_above_the_limit_are_outside(
    vit_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = convert(vit_directory, tmp_path / "inside", to="onnx")
    monkeypatch.setattr("cnclip.checkpoints.onnx.MAX_INSIDE", 10_000)
    written = convert(vit_directory, tmp_path / "outside", to="onnx")
    folder = tmp_path / "moved"
    written.rename(folder)
    for tower in INPUTS:
        path = folder / f"{tower}.onnx"
        onnx.checker.check_model(path, full_check=True)
        stored = onnx.load(path, load_external_data=False).graph.initializer
        places = [
            {entry.key: entry.value for entry in one.external_data}
            for one in stored
            if one.data_location == onnx.TensorProto.EXTERNAL
        ]
        assert len(places) > 10
        assert {place["location"] for place in places} == {f"{tower}.onnx.data"}
        assert all(int(place["offset"]) % 4096 == 0 for place in places)
        assert path.stat().st_size < 0.2 * (inside / f"{tower}.onnx").stat().st_size
    pixels = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    ids = np.array([[2, 5, 3, 0], [2, 3, 0, 0]])
    for tower, inputs in (("image", pixels), ("text", ids)):
        assert np.array_equal(run(folder, tower, inputs), run(inside, tower, inputs))


# What is reported and refused


def test_the_command_reports_the_deviation(
    vit_directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "out"
    with caplog.at_level(logging.INFO, logger="cnclip"):
        assert cli.main(["convert", str(vit_directory), "-o", str(output), "--to", "onnx"]) == 0
    assert "image.onnx: rows of 3 random batches are within" in caplog.text
    assert "text.onnx: rows of 6 random batches are within" in caplog.text


def test_rows_that_differ_are_an_error(
    vit_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A graph with another activation than torch's modules.
    monkeypatch.setattr(
        "cnclip.modeling.onnx_graph._activation", lambda graph, x, _: graph.add("Relu", x)
    )
    with pytest.raises(CheckpointError, match=r"rows of text\.onnx in ONNX Runtime .* differ by"):
        convert(vit_directory, tmp_path / "out", to="onnx")
    assert list(tmp_path.iterdir()) == []


def test_without_onnxruntime_nothing_is_checked(
    vit_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    folder = convert(vit_directory, tmp_path / "out", to="onnx")
    assert "image.onnx is not checked: onnxruntime is not installed: pip install" in caplog.text
    facts = json.loads((folder / "cnclip.json").read_text())
    assert facts["largest_deviation_from_torch"] == {"image": None, "text": None}


def test_without_onnx_the_extra_is_named(
    vit_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'cnclip\[onnx\]'"):
        convert(vit_directory, tmp_path / "out", to="onnx")


def test_weights_that_are_not_finite(make: Make, weights: Any, tmp_path: Path) -> None:
    broken = {**weights, "text_projection": torch.full_like(weights["text_projection"], torch.nan)}
    with pytest.raises(CheckpointError, match="text_projection has NaN"):
        convert(make(broken), tmp_path / "out", to="onnx")
    folder = convert(make(broken), tmp_path / "out", to="onnx", allow_nonfinite=True)
    assert np.isnan(run(folder, "text", np.array([[2, 3]]))).all()


def test_options_and_outputs_that_are_refused(vit_directory: Path, tmp_path: Path) -> None:
    for to in FORMATS[:-1]:
        with pytest.raises(InvalidInputError, match="half: is for 'onnx'"):
            convert(vit_directory, tmp_path / "out.pt", to=to, half=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").touch()
    with pytest.raises(OutputExistsError, match="choose a new or an empty directory"):
        convert(vit_directory, tmp_path / "out", to="onnx")


def test_onnx_is_named_where_a_model_is_expected(
    vit_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = convert(vit_directory, tmp_path / "out", to="onnx")
    renamed = shutil.copy(folder / "text.onnx", tmp_path / "a.pt")
    alone = shutil.copy(folder / "text.onnx", tmp_path / "alone.onnx")
    for path, error in (
        (folder, CheckpointError),
        (folder / "image.onnx", ArchiveError),
        (alone, ArchiveError),
        (renamed, CheckpointError),
    ):
        with pytest.raises(error, match="ONNX, which cnclip writes and does not open") as raised:
            pipeline(model=path, device="cpu")
        assert raised.value.where.file == str(path)
        with pytest.raises(error, match="ONNX, which cnclip writes"):
            convert(path, tmp_path / "again.cnclip.pt")
    capsys.readouterr()
    for path in (folder, folder / "image.onnx"):
        assert cli.main(["info", str(path)]) == 0
        printed = capsys.readouterr().out
        assert "opset " in printed and "bytes of text.onnx" in printed and "embed_dim" in printed
    assert cli.main(["info", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "onnx"
    assert cli.main(["info", str(alone)]) == 2
    assert "ONNX, which cnclip writes" in capsys.readouterr().err
    (folder / "cnclip.json").write_text("{")
    assert cli.main(["info", str(folder)]) == 2
    assert "cnclip.json: not JSON" in capsys.readouterr().err
