"""Programs that fine-tune, unmodified: data sets and models are on a local hub."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnclip.checkpoints.files import find_checkpoint
from cnclip.models import read_files
from cnclip.pipelines import pipeline
from tests.support.fork_server import ForkServer
from tests.support.hub_server import Hub

pytest.importorskip("modelscope_hub")
pytestmark = pytest.mark.skipif(
    "CNCLIP_SANITIZE" in os.environ, reason="trains in many processes, and nothing of it is C"
)

PROGRAMS = Path(__file__).parents[1] / "support" / "programs"
RUN = """
import os, sys
os.chdir(sys.argv[1])
from cnclip.modelscope.running import run
run(sys.argv[2:], None)
"""
Completed = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("modelscope")


@pytest.fixture
def run_in(hub: Hub, caches: Path, fork_server: ForkServer, tmp_path: Path) -> Any:
    """Runs a program in a new folder."""

    def run(name: str, *arguments: object, folder: Path = tmp_path, **others: str) -> Completed:
        return fork_server.run(
            RUN,
            folder,
            PROGRAMS / f"{name}.py",
            *arguments,
            MODELSCOPE_ENDPOINT=hub.url,
            MODELSCOPE_CACHE=str(caches),
            **others,
        )

    return run


def test_rows_of_a_data_set_on_the_hub(run_in: Any, hub: Hub) -> None:
    hub.requests.clear()
    done = run_in("data_rows", "muge", "train[:3]")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "3 image image_id query query_id"
    assert lines[1:4] == ["0 猫猫 0 RGB 36 30", "1 狗木 1 RGB 36 30", "2 车雨 2 RGB 36 30"]
    assert lines[4:] == [
        "3 ['猫猫', '狗木'] 2",
        "['text', 'query_id', 'image', 'image_id']",
    ]
    # Only the split that is asked for, and no script.
    assert set(hub.fetched()) == {"train_imgs.tsv", "train_texts.jsonl"}


def test_files_are_downloaded_once(run_in: Any, hub: Hub) -> None:
    run_in("data_rows", "modelscope/muge", "train[:20%]")
    hub.requests.clear()
    again = run_in("data_rows", "modelscope/muge", "train[:20%]")
    assert again.stdout.startswith("5 "), again.stderr
    assert hub.fetched() == []


BAD = [
    ({"split": "trian"}, "DatasetError", "has no split 'trian'; it has train, validation"),
    ({"split": "train[30:]"}, "InvalidInputError", "the split has 24 rows"),
    ({"split": "train[:200%]"}, "InvalidInputError", "-100% to 100%"),
    ({"split": "train", "subset_name": "other"}, "DatasetError", "no subset 'other'"),
    (
        {"split": "train", "version": "v9"},
        "DatasetError",
        "no data set modelscope/muge of revision",
    ),
    ({"dataset_name": "muse"}, "DatasetError", "no data set modelscope/muse on ModelScope"),
    ({"hub": "huggingface"}, "InvalidInputError", "expected 'modelscope'"),
]


def test_bad_names(run_in: Any) -> None:
    done = run_in("load_errors", json.dumps([given for given, _, _ in BAD]))
    lines = done.stdout.splitlines()
    assert len(lines) == len(BAD), done.stderr
    for line, (_, kind, words) in zip(lines, BAD, strict=True):
        assert line.startswith(f"{kind}: ") and words in line


def test_the_tutorial_of_the_model_card(run_in: Any, tmp_path: Path) -> None:
    done = run_in("fine_tune", 1, 12)
    assert done.returncode == 0, done.stderr
    summary, shown = done.stdout.splitlines()
    found = json.loads(summary)
    assert found["files"] == [
        *("configuration.json", "pytorch_model.bin", "text_model_config.json"),
        *("vision_model_config.json", "vocab.txt"),
    ]
    assert shown.startswith("1 64 ")
    ignored = [line for line in done.stderr.splitlines() if "the trainer ignores" in line]
    assert [line.partition("ignores: ")[2] for line in ignored] == [
        "train.use_fp16 (without a GPU)"
    ]

    workspace = tmp_path / "workspace/ckpts/clip"
    output = workspace / "output"
    settings = json.loads((output / "configuration.json").read_text())
    assert settings["model"] == {"type": "clip-multi-modal-embedding"}
    assert settings["train"]["max_epochs"] == 1
    options = json.loads((workspace / "runs/001/options.json").read_text())
    # 24 pairs in batches of 12: two steps, and the first evaluation is after an epoch of them.
    assert [options[name] for name in ("max_steps", "batch_size", "valid_step_interval")] == [
        2,
        12,
        2,
    ]
    assert [options[name] for name in ("beta1", "beta2", "eps", "wd")] == [0.9, 0.999, 1e-8, 0.001]
    checkpoint = read_files(find_checkpoint(output))
    assert not checkpoint.normalized_texts and checkpoint.has_usual_context_length
    assert (workspace / "output_best" / "pytorch_model.bin").samefile(output / "pytorch_model.bin")

    # The program may run again in the same folder.
    assert run_in("fine_tune", 1, 24).returncode == 0
    assert sorted(path.name for path in (workspace / "runs").iterdir()) == ["001", "002"]


def test_a_run_is_continued(run_in: Any, hub: Hub, tmp_path: Path) -> None:
    hub.requests.clear()
    done = run_in("resumed", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True True 10\n"
    # Of the second data set, all files were downloaded again.
    assert {"valid_imgs.tsv", "valid_texts.jsonl"} <= set(hub.fetched())
    lines = (tmp_path / "runs/001/metrics.jsonl").read_text().splitlines()
    steps = [line["step"] for line in map(json.loads, lines) if "loss" in line]
    assert steps == sorted(steps) and steps[-1] == 6  # three epochs of two steps
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["001"]
    first, second = (
        read_files(find_checkpoint(tmp_path / place)).weights for place in ("output", "more/output")
    )
    name = next(name for name in first if name.endswith("out_proj.weight"))
    assert not np.array_equal(first[name], second[name])


@pytest.mark.slow
def test_a_longer_training_learns_the_pairs(run_in: Any, tmp_path: Path) -> None:
    """120 epochs on 24 pairs, without the augmentation and dropout of ModelScope's trainer."""
    options = {"augment": "none", "text_dropout": 0.0}
    done = run_in("fine_tune", 120, 24, json.dumps(options))
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "workspace/ckpts/clip/runs/001/metrics.jsonl").read_text().splitlines()
    losses = [line["loss"] for line in map(json.loads, lines) if "loss" in line]
    assert len(losses) == 120
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) / 3
    tuned = pipeline(model=tmp_path / "workspace/ckpts/clip/output", device="cpu")
    assert np.isfinite(tuned.forward({"text": "猫"})["text_embedding"]).all()
