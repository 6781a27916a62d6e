"""Small models, data sets and options for training."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnclip.assets import asset_path
from cnclip.datasets import write_split

WORDS = "猫狗车花山水火木金土日月星云雨雪风雷电春夏秋冬红黄蓝绿黑白大小多少上下左右东西南北"

VISION = {
    "embed_dim": 32,
    "image_resolution": 32,
    "vision_layers": 2,
    "vision_width": 64,
    "vision_patch_size": 8,
    "vision_head_width": 32,
}

TEXT = {
    "text_hidden_size": 64,
    "text_num_attention_heads": 2,
    "text_intermediate_size": 128,
    "text_num_hidden_layers": 2,
    "text_max_position_embeddings": 32,
    "text_type_vocab_size": 2,
    "text_hidden_act": "gelu",
}

# Options of every small run.
SMALL: dict[str, Any] = {
    "batch_size": 16,
    "num_workers": 0,
    "warmup": 2,
    "lr": 1e-3,
    "device": "cpu",
    "text_dropout": 0.0,
    "log_interval": 1,
}

COMMAND = [
    sys.executable,
    "-m",
    "cnclip",
    "train",
    "--from-scratch",
    "--device",
    "cpu",
    "--batch-size",
    "8",
    "--lr",
    "1e-3",
    "--warmup",
    "2",
    "--log-interval",
    "1",
]

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def png(number: int) -> bytes:
    """A PNG file whose colours depend on the number."""
    blocks = np.random.default_rng(number).integers(0, 255, (3, 3, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize((36, 30), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


def write_pairs(folder: Path, split: str, count: int) -> None:
    write_split(
        folder,
        split,
        [(i, png(i)) for i in range(count)],
        [(i, f"{WORDS[i % 40]}{WORDS[i * 7 % 39]}", [i]) for i in range(count)],
    )


def write_training_pairs(folder: Path) -> Path:
    """Write a data set with 64 pairs for training and 20 for validation; returns its folder."""
    write_pairs(folder, "train", 64)
    write_pairs(folder, "valid", 20)
    return folder


def write_training_sizes(folder: Path) -> Path:
    """Write the sizes of a small model and a vocabulary, without weights; returns the folder."""
    vocabulary = (asset_path("emoji-cn") / "vocab.txt").read_bytes()
    (folder / "vocab.txt").write_bytes(vocabulary)
    (folder / "vision_model_config.json").write_text(json.dumps(VISION))
    count = len(vocabulary.splitlines())
    (folder / "text_model_config.json").write_text(json.dumps(TEXT | {"vocab_size": count}))
    return folder


def losses_of(output: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def wait_for_step(output: Path, step: int, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 100
    while time.monotonic() < end and process.poll() is None:
        path = output / "metrics.jsonl"
        if path.exists() and f'"step": {step},' in path.read_text():
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} did not come: {process.communicate()}")
