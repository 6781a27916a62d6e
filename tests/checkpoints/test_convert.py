"""Model directories to archives: the readers, the rounding and the numbers."""

from __future__ import annotations

import json
import shutil
import stat
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cnclip import pipeline
from cnclip.archive import read_archive
from cnclip.convert import convert
from tests.support.small_vit import TEXTS, VOCABULARY, Make, Weights, check
from tests.support.twins import towers


def embed(directory: Path, image: Image.Image) -> dict[str, Any]:
    return pipeline(model=directory, device="cpu").forward({"img": image, "text": TEXTS})


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "swish"])
def test_activations(make: Make, image: Image.Image, weights: Weights, activation: str) -> None:
    check(make(text={"text_hidden_act": activation}), image, weights, activation=activation)


@pytest.mark.parametrize("head_width", [7, 8, 24, 48])
def test_head_widths(make: Make, image: Image.Image, weights: Weights, head_width: int) -> None:
    directory = make(vision={"vision_head_width": head_width})
    check(directory, image, weights, head_width=head_width)


def test_head_width_is_64_where_none_is_said(make: Make, image: Image.Image) -> None:
    directory = make(vision={"vision_width": 128, "vision_layers": 1})
    config = json.loads((directory / "vision_model_config.json").read_text())
    del config["vision_head_width"]
    (directory / "vision_model_config.json").write_text(json.dumps(config))
    weights = torch.load(directory / "pytorch_model.bin", weights_only=True)
    check(directory, image, weights, head_width=64)


def test_images_whose_sides_are_no_multiple_of_the_patch(make: Make, image: Image.Image) -> None:
    directory = make(vision={"image_resolution": 29})
    check(directory, image, torch.load(directory / "pytorch_model.bin", weights_only=True))


def test_a_vocabulary_in_another_order(make: Make, image: Image.Image, weights: Weights) -> None:
    # ModelScope fills with 0 whatever [PAD]'s id is, and masks the id of [PAD].
    order = ["猫", "[SEP]", *VOCABULARY[5:], "狗", "[CLS]", "[MASK]", "[PAD]", "[UNK]"]
    order = list(dict.fromkeys(order))
    check(make(vocabulary=order), image, weights, pad_id=order.index("[PAD]"))


def test_float16_rounding(make: Make, image: Image.Image, weights: Weights) -> None:
    single = embed(make(weights), image)
    rounded = embed(make(towers.rounded(weights)), image)
    half = {
        name: value.half() if torch.equal(value.half().float(), value) else value
        for name, value in towers.rounded(weights).items()
    }
    assert {value.dtype for value in half.values()} == {torch.float16, torch.float32}
    stored_half = embed(make(half), image)
    for key in single:
        assert np.array_equal(single[key], rounded[key])
        assert np.array_equal(single[key], stored_half[key])
    everything = embed(make({name: value.half() for name, value in weights.items()}), image)
    assert not np.array_equal(single["img_embedding"], everything["img_embedding"])
    assert np.array_equal(single["text_embedding"], everything["text_embedding"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_floats(make: Make, image: Image.Image, weights: Weights, dtype: Any) -> None:
    other = {name: value.to(dtype) for name, value in weights.items()}
    check(make(other), image, {name: value.float() for name, value in other.items()})


def test_the_archive_keeps_float16(make: Make, tmp_path: Path, weights: Weights) -> None:
    output = tmp_path / "out.cnclip.pt"
    assert convert(make(weights), output) == output
    info = read_archive(output)
    assert info.metadata["stored_dtypes"] == ["float16", "float32"]
    parameters = sum(value.numel() for value in weights.values())
    assert info.metadata["parameters"] == parameters
    assert output.stat().st_size < 3 * parameters + 200_000
    assert stat.S_IMODE(output.stat().st_mode) == 0o666 & ~current_umask()
    assert [path.name for path in tmp_path.iterdir() if ".tmp" in path.name] == []


def current_umask() -> int:
    fields = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in fields if line.startswith("Umask")).split()[1], 8)


# Readers

WRAPPINGS: dict[str, Callable[[Weights], Any]] = {
    "module.": lambda w: {"module." + name: value for name, value in w.items()},
    "clip_model.": lambda w: {"clip_model." + name: value for name, value in w.items()},
    "module.clip_model.": lambda w: {
        "module.clip_model." + name: value for name, value in w.items()
    },
    "state_dict": lambda w: {"epoch": 3, "state_dict": w},
    "state_dict of module.": lambda w: {
        "optimizer": {"lr": 0.1, "steps": [1, 2]},
        "state_dict": {"module." + name: value for name, value in w.items()},
        "name": "a run",
    },
    "ordered": OrderedDict,
    "pooler": lambda w: {
        **w,
        "bert.pooler.dense.weight": torch.zeros(32, 32),
        "bert.pooler.dense.bias": torch.zeros(32),
    },
    "not contiguous": lambda w: {
        name: value.T.contiguous().T if value.ndim == 2 else value for name, value in w.items()
    },
    "parameters": lambda w: {name: torch.nn.Parameter(value) for name, value in w.items()},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrappings(make: Make, image: Image.Image, weights: Weights, wrapping: str) -> None:
    check(make(WRAPPINGS[wrapping](weights)), image, weights)


def test_the_format_before_zip(make: Make, image: Image.Image, weights: Weights) -> None:
    directory = make(weights)
    torch.save(weights, directory / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    check(directory, image, weights)


@pytest.mark.parametrize("name", ["m\udcff", "模" * 80, "m\nn", "m" * 250], ids=ascii)
def test_strange_names_of_directories(
    make: Make, image: Image.Image, weights: Weights, tmp_path: Path, name: str
) -> None:
    check(make(weights).rename(tmp_path / name), image, weights)


def test_a_resnets_counters_are_not_needed(
    golden: Path, tmp_path: Path, texts: list[str], image: Image.Image
) -> None:
    directory = tmp_path / "resnet"
    shutil.copytree(golden / "tiny-rn", directory)
    weights = torch.load(directory / "pytorch_model.bin", weights_only=True)["state_dict"]
    fewer = {name: value for name, value in weights.items() if "num_batches" not in name}
    assert len(fewer) < len(weights)
    torch.save(fewer, directory / "pytorch_model.bin")
    expected = embed(golden / "tiny-rn", image)
    for key, value in embed(directory, image).items():
        assert np.array_equal(value, expected[key])


def test_a_conversion_does_not_import_the_compiler(
    make: Make, run_python: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    code = """
import sys
from cnclip.convert import convert
convert(sys.argv[1], sys.argv[2])
print("torch._dynamo" in sys.modules)
"""
    assert run_python(code, make(), tmp_path / "model.cnclip.pt").stdout == "False\n"
