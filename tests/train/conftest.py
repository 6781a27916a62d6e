"""A small data set and a trained model, shared by the tests of training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cnclip.assets import asset_path
from tests.support.training import SMALL, TEXT, VISION, write_pairs

if TYPE_CHECKING:
    from cnclip.train import TrainReport

BUNDLED = asset_path("emoji-cn")


@pytest.fixture(scope="session")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with sizes and a vocabulary, without weights."""
    folder = tmp_path_factory.mktemp("sizes")
    vocabulary = (BUNDLED / "vocab.txt").read_bytes()
    (folder / "vocab.txt").write_bytes(vocabulary)
    (folder / "vision_model_config.json").write_text(json.dumps(VISION))
    count = len(vocabulary.splitlines())
    (folder / "text_model_config.json").write_text(json.dumps(TEXT | {"vocab_size": count}))
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with 64 pairs for training and 20 for validation."""
    folder = tmp_path_factory.mktemp("data")
    write_pairs(folder, "train", 64)
    write_pairs(folder, "valid", 20)
    return folder


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, sizes: Path, data: Path
) -> tuple[Path, TrainReport]:
    """A run that memorises 64 pairs from random weights: its folder and report."""
    from cnclip.train import finetune

    output = tmp_path_factory.mktemp("runs") / "by-heart"
    report = finetune(
        sizes,
        data,
        output,
        val=data,
        val_split="train",
        from_scratch=True,
        show_progress=False,
        **SMALL
        | {"max_steps": 120, "batch_size": 64, "log_interval": 20, "valid_step_interval": 60},
    )
    return output, report
