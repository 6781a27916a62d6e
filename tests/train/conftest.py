"""A small data set and a trained model, shared by the tests of training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.training import SMALL, write_training_pairs, write_training_sizes

if TYPE_CHECKING:
    from cnclip.train import TrainReport


@pytest.fixture(scope="session")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with sizes and a vocabulary, without weights."""
    return write_training_sizes(tmp_path_factory.mktemp("sizes"))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with 64 pairs for training and 20 for validation."""
    return write_training_pairs(tmp_path_factory.mktemp("data"))


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
