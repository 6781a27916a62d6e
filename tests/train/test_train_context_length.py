"""The length at which texts are cut: from the option of a run to what the run writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cnclip import pipeline  # noqa: E402
from cnclip.archive import read_archive  # noqa: E402
from cnclip.convert import convert  # noqa: E402
from cnclip.errors import CheckpointError, InvalidInputError  # noqa: E402
from cnclip.models import read_checkpoint  # noqa: E402
from cnclip.train import finetune  # noqa: E402
from tests.support.training import SMALL  # noqa: E402

ONE_STEP = SMALL | {"max_steps": 1, "show_progress": False}
LENGTH = 90


@pytest.fixture(scope="module")
def long_sizes(sizes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sizes of a model with 100 positions."""
    folder = tmp_path_factory.mktemp("long")
    for file in sizes.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "text_model_config.json").read_text())
    config["text_max_position_embeddings"] = 100
    (folder / "text_model_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def long_run(long_sizes: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose texts are cut at 90 ids."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    finetune(long_sizes, data, folder, from_scratch=True, context_length=LENGTH, **ONE_STEP)
    return folder


def test_the_written_models_keep_it(long_run: Path) -> None:
    for model in ("best", "best.cnclip.pt"):
        embedder = pipeline(model=long_run / model, device="cpu")
        assert embedder.preprocess({"text": "猫"})["text"].shape == (1, LENGTH)
        # Two texts whose first difference is the 71st character.
        rows = embedder.forward({"text": ["红" * 70 + "猫", "红" * 70 + "狗"]})["text_embedding"]
        assert not np.array_equal(rows[0], rows[1])
    text_config = json.loads((long_run / "best" / "text_model_config.json").read_text())
    assert not [key for key in text_config if "context" in key]  # ModelScope refuses other keys


@pytest.mark.parametrize("to", ["modelscope", "huggingface"])
def test_conversions_keep_it(long_run: Path, to: str, tmp_path: Path) -> None:
    if to == "huggingface":
        pytest.importorskip("safetensors")
        pytest.importorskip("huggingface_hub")
    convert(long_run / "best.cnclip.pt", tmp_path / "model", to=to)
    assert read_checkpoint(tmp_path / "model").context_length == LENGTH
    convert(tmp_path / "model", tmp_path / "again.cnclip.pt")
    assert read_archive(tmp_path / "again.cnclip.pt").context_length == LENGTH


def test_a_format_without_it_is_reported(
    long_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    convert(long_run / "best.cnclip.pt", tmp_path / "model.pt", to="cn_clip")
    assert "texts are cut at 90 ids: readers cut them at 52" in caplog.text


def test_a_further_run_keeps_it(long_run: Path, data: Path, tmp_path: Path) -> None:
    finetune(long_run / "best", data, tmp_path / "run", **ONE_STEP)
    assert read_archive(tmp_path / "run" / "best.cnclip.pt").context_length == LENGTH


def test_the_usual_one_changes_no_file(long_sizes: Path, data: Path, tmp_path: Path) -> None:
    finetune(long_sizes, data, tmp_path / "run", from_scratch=True, **ONE_STEP)
    assert read_archive(tmp_path / "run" / "best.cnclip.pt").context_length == 52
    configuration = json.loads((tmp_path / "run" / "best" / "configuration.json").read_text())
    assert "context_length" not in configuration["cnclip"]


def test_more_than_the_positions_is_refused(sizes: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InvalidInputError, match="^context_length: 33 ids, but the model has 32 positions"
    ):
        finetune(sizes, data, tmp_path / "run", from_scratch=True, context_length=33, **ONE_STEP)
    assert not (tmp_path / "run").exists()


def test_a_wrong_value_in_a_file_is_named(long_run: Path, tmp_path: Path) -> None:
    for file in (long_run / "best").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    wrong = {"cnclip": {"context_length": 101}}
    (tmp_path / "configuration.json").write_text(json.dumps(wrong))
    with pytest.raises(CheckpointError, match=r"configuration\.json:cnclip\.context_length: "):
        read_checkpoint(tmp_path)
