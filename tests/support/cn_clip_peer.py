"""The real cn_clip, where it is installed, at the reduced sizes of the tests.

`pip install --no-deps cn_clip six` and a torchvision for the torch in use. As a program:
`python -m tests.support.cn_clip_peer` records the answers of the programs in
tests/support/programs/cn_clip, which the tests compare with.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import runpy
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cnclip.modeling.config import ClipConfig
from tests.support.families import random_weights, smaller
from tests.support.pages import set_up

PROGRAMS = sorted((Path(__file__).parent / "programs/cn_clip").glob("*.py"))
ANSWERS = Path(__file__).parents[1] / "data/cn_clip_programs.json"
NAME = "ViT-B-16"
FILE = "clip_cn_vit-b-16.pt"
TOWERS = ("ViT-B-16", "ViT-L-14", "RoBERTa-wwm-ext-base-chinese")


def write_published(folder: Path, name: str = NAME, file: str = FILE) -> ClipConfig:
    """A file in the layout of the published ones, of a family at reduced size."""
    config = smaller(name)
    weights = {f"module.{key}": value for key, value in random_weights(config).items()}
    width = config.text.width
    weights["module.bert.pooler.dense.weight"] = torch.zeros(width, width)
    weights["module.bert.pooler.dense.bias"] = torch.zeros(width)
    torch.save({"epoch": 15, "step": 9, "name": "a", "state_dict": weights}, folder / file)
    return config


def model_info(config: ClipConfig) -> dict[str, Any]:
    """The arguments of cn_clip's class CLIP."""
    vision, text = config.vision, config.text
    return {
        "embed_dim": config.embed_dim,
        "image_resolution": vision.resolution,
        "vision_layers": vision.layers,
        "vision_width": vision.width,
        "vision_patch_size": vision.patch_size,
        "vision_head_width": vision.head_width,
        "vocab_size": text.vocab_size,
        "text_attention_probs_dropout_prob": 0.1,
        "text_hidden_act": text.activation,
        "text_hidden_dropout_prob": 0.1,
        "text_hidden_size": text.width,
        "text_initializer_range": 0.02,
        "text_intermediate_size": text.intermediate_width,
        "text_max_position_embeddings": text.max_positions,
        "text_num_attention_heads": text.heads,
        "text_num_hidden_layers": text.layers,
        "text_type_vocab_size": text.type_vocab_size,
    }


def import_cn_clip() -> Any:
    """The module `cn_clip.clip`; the test is skipped where it is not installed."""
    for name in ("six", "cn_clip", "torchvision"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install --no-deps {name}")
    # It describes operators that a torchvision for CUDA cannot load on a torch without it. Images
    # are resized by Pillow and need none.
    name = "torchvision._meta_registrations"
    sys.modules.setdefault(name, types.ModuleType(name))
    return importlib.import_module("cn_clip.clip")


def with_small_towers(cn_clip: Any, config: ClipConfig) -> None:
    """Let cn_clip build models of these sizes under the published names."""
    info = model_info(config)
    text = {key: value for key, value in info.items() if key.startswith(("text_", "vocab_"))}
    vision = {key: value for key, value in info.items() if key not in text}
    sizes = {name: (text if name.startswith("RoBERTa") else vision) for name in TOWERS}

    def load(file: Any) -> Any:
        return sizes.get(Path(file.name).stem) or json.load(file)

    cn_clip.utils.json = types.SimpleNamespace(load=load)
    for known in cn_clip.utils._MODEL_INFO.values():
        known["input_resolution"] = config.vision.resolution


@contextlib.contextmanager
def folder_of_programs(folder: Path) -> Iterator[ClipConfig]:
    """The current folder, with the files that the programs read."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        set_up("photos cat.png", folder)
        yield write_published(folder)
    finally:
        os.chdir(before)


def main() -> None:
    """Run the programs with the real cn_clip, and write what they print."""
    answers = {}
    with tempfile.TemporaryDirectory() as folder, folder_of_programs(Path(folder)) as config:
        with_small_towers(import_cn_clip(), config)
        for program in PROGRAMS:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                runpy.run_path(str(program), run_name="__main__")
            answers[program.stem] = json.loads(printed.getvalue().splitlines()[-1])
    content = json.dumps(rounded(answers), ensure_ascii=False, indent=1)
    ANSWERS.write_text(content + "\n", encoding="utf-8")
    print(f"{ANSWERS}: {len(answers)} programs", file=sys.stderr)


def rounded(value: Any) -> Any:
    """A value of JSON with seven digits per number."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return {k: rounded(v) for k, v in value.items()} if isinstance(value, dict) else value


if __name__ == "__main__":
    main()
