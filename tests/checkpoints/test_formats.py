"""The formats of ModelScope and cn_clip, and that all formats agree."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cnclip
from cnclip import cli, pipeline
from cnclip.archive import read_archive
from cnclip.checkpoints.checkpoint import Weights
from cnclip.checkpoints.files import find_checkpoint
from cnclip.checkpoints.published_sizes import PUBLISHED_SIZES
from cnclip.checkpoints.tensors import read_tensors
from cnclip.convert import convert
from cnclip.modeling.clip import ChineseClip
from cnclip.models import read_files

pytest.importorskip("safetensors")

from tests.support.families import (
    check_same,
    checkpoint_of,
    embed,
    head_width,
    random_weights,
    smaller,
)

# Their many layers take seconds, in small as well.
LARGE = {"ViT-L-14", "ViT-L-14-336", "ViT-H-14"}


@pytest.fixture(scope="module")
def image() -> Image.Image:
    random = np.random.default_rng(0)
    return Image.fromarray(random.integers(0, 256, (50, 70, 3), np.uint8))


@pytest.fixture(scope="module")
def modelscope(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ModelScope directory of the smaller family named by the parameter. Read-only."""
    from cnclip.checkpoints.modelscope import write_modelscope

    directory = tmp_path_factory.mktemp("models") / "modelscope"
    directory.mkdir()
    write_modelscope(checkpoint_of(smaller(request.param)), directory)
    return directory


@pytest.mark.parametrize(
    ("modelscope", "name"),
    [
        pytest.param(name, name, marks=[pytest.mark.slow] * (name in LARGE))
        for name in PUBLISHED_SIZES
    ],
    indirect=["modelscope"],
)
def test_formats_agree(modelscope: Path, name: str, image: Image.Image, tmp_path: Path) -> None:
    expected = embed(modelscope, image)
    archive = convert(modelscope, tmp_path / "a.cnclip.pt")
    formats = ["modelscope", "cn_clip"] + ([] if name == "RN50" else ["huggingface"])
    for source in (modelscope, archive):
        for to in formats:
            output = tmp_path / f"{source.stem}-to-{to}.pt"
            if to == "cn_clip":
                convert(source, output, to=to)
                # The name of the file says nothing, and these sizes are no published ones.
                again = tmp_path / f"{source.stem}-again.cnclip.pt"
                check_same(convert(output, again, **head_width(name)), image, expected)
            else:
                check_same(convert(source, output, to=to), image, expected)


@pytest.mark.parametrize("modelscope", ["ViT-B-16"], indirect=True)
@pytest.mark.parametrize("to", ["modelscope", "cn_clip", "huggingface"])
def test_nothing_changes_on_the_way_there_and_back(
    modelscope: Path, to: str, tmp_path: Path
) -> None:
    output = convert(modelscope, tmp_path / "out.pt", to=to)
    there, before = read_files(find_checkpoint(output)), read_files(find_checkpoint(modelscope))
    assert there.config == before.config
    assert there.vocabulary == before.vocabulary
    assert (there.mean, there.std) == (before.mean, before.std)
    assert there.weights.keys() == before.weights.keys()
    for tensor, value in before.weights.items():
        assert torch.equal(there.weights[tensor], value)
        assert there.weights[tensor].dtype == value.dtype


def with_flash_attention(weights: Weights) -> Weights:
    """The names that cn_clip gives under flash attention."""
    renamed: Weights = {}
    for name, value in weights.items():
        if ".attention.self." in name:
            layer, part, kind = name.rsplit(".", 2)
            if part == "query":
                parts = [weights[f"{layer}.{p}.{kind}"] for p in ("query", "key", "value")]
                renamed[f"{layer}.Wqkv.{kind}"] = torch.cat(parts)
        else:
            name = name.replace("attention.output.dense", "attention.self.out_proj")
            renamed[name.replace("attn.in_proj_", "attn.Wqkv.")] = value
    return renamed


CN_CLIP: dict[str, Callable[[Weights], Any]] = {
    "weights alone": lambda w: w,
    "of training": lambda w: {
        "epoch": 3,
        "step": 100,
        "name": "a run",
        "state_dict": {f"module.{name}": value for name, value in w.items()},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-5}]},
    },
    "with flash attention": lambda w: {
        "state_dict": {f"module.{name}": value for name, value in with_flash_attention(w).items()}
    },
    "compiled": lambda w: {f"module._orig_mod.{name}": value for name, value in w.items()},
    "with a pooler": lambda w: {**w, "bert.pooler.dense.weight": torch.zeros(128, 128)},
    "in float16": lambda w: {
        name: value.half() if value.is_floating_point() else value for name, value in w.items()
    },
}


@pytest.mark.parametrize("name", ["ViT-B-16", "RN50"])
@pytest.mark.parametrize("form", CN_CLIP)
def test_cn_clips_files(name: str, form: str, image: Image.Image, tmp_path: Path) -> None:
    weights = random_weights(smaller(name))
    expected, path = tmp_path / "plain.pt", tmp_path / "a.pt"
    torch.save(weights, expected)
    torch.save(CN_CLIP[form](weights), path)
    check_same(path, image, embed(expected, image))


@pytest.mark.parametrize("name", PUBLISHED_SIZES)
def test_published_sizes_are_known_from_the_tensors(name: str, tmp_path: Path) -> None:
    from cnclip.checkpoints.checkpoint import Hints
    from cnclip.checkpoints.cn_clip import _Shapes

    with torch.device("meta"):
        weights = dict(ChineseClip(PUBLISHED_SIZES[name]).state_dict())
    assert _Shapes(tmp_path, weights).config(0, Hints()) == PUBLISHED_SIZES[name]


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("visual.conv1.weight", (768, 3, 16), r"conv1\.weight of shape \[768, 3, 16\], expected 4"),
        ("text_projection", (1 << 30, 512), r"text_projection of shape .* of 1 to"),
        ("visual.positional_embedding", (198, 768), "has 198 rows, expected a square plus one"),
        ("visual.positional_embedding", (1, 768), "has 1 rows, expected a square plus one"),
        ("visual.positional_embedding", (9_000_001, 768), "images of 48000 pixels per side"),
        ("visual.transformer.resblocks.", None, r"0 layers visual\.transformer\.resblocks\.N"),
        ("visual.conv1.weight", None, r"no tensor visual\.conv1\.weight"),
    ],
)
def test_shapes_of_no_chinese_clip(
    name: str, shape: tuple[int, ...] | None, message: str, tmp_path: Path
) -> None:
    from cnclip.checkpoints.checkpoint import Hints
    from cnclip.checkpoints.cn_clip import _Shapes

    with torch.device("meta"):
        weights = dict(ChineseClip(PUBLISHED_SIZES["ViT-B-16"]).state_dict())
        if shape is not None:
            weights[name] = torch.empty(shape)
        else:
            weights = {one: value for one, value in weights.items() if not one.startswith(name)}
    with pytest.raises(cnclip.errors.CheckpointError, match=message):
        _Shapes(tmp_path, weights).config(0, Hints())


def test_head_widths_that_no_tensor_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = smaller("ViT-H-14")
    config = dataclasses.replace(
        config, vision=dataclasses.replace(config.vision, width=320, head_width=80)
    )
    path, output = tmp_path / "a.pt", tmp_path / "out.cnclip.pt"
    torch.save(random_weights(config), path)
    with pytest.raises(
        cnclip.errors.CheckpointError, match=r"pass --vision-head-width to cnclip convert$"
    ):
        pipeline(model=path, device="cpu")
    assert cli.main(["convert", str(path), "-o", str(output), "--vision-head-width", "80"]) == 0
    assert read_archive(output).metadata["architecture"]["vision"]["head_width"] == 80
    capsys.readouterr()
    assert cli.main(["convert", str(path), "-o", str(output), "--vision-head-width", "7"]) == 2
    assert "--vision-head-width" in capsys.readouterr().err


def test_another_vocabulary(tmp_path: Path) -> None:
    config = smaller("ViT-B-16")
    config = dataclasses.replace(config, text=dataclasses.replace(config.text, vocab_size=9))
    path, words = tmp_path / "a.pt", tmp_path / "words.txt"
    torch.save(random_weights(config), path)
    words.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"猫狗abc"]))
    with pytest.raises(cnclip.errors.CheckpointError, match="9 rows, the vocabulary 21128 entries"):
        pipeline(model=path, device="cpu")
    convert(path, tmp_path / "out.cnclip.pt", vocabulary=words)
    assert read_archive(tmp_path / "out.cnclip.pt").vocabulary == words.read_bytes()


@pytest.mark.parametrize("modelscope", ["ViT-B-16"], indirect=True)
def test_hugging_faces_shards(
    modelscope: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = convert(modelscope, tmp_path / "whole", to="huggingface")
    monkeypatch.setattr("cnclip.checkpoints.huggingface.SHARD_BYTES", 200_000)
    sharded = convert(modelscope, tmp_path / "sharded", to="huggingface")
    index = json.loads((sharded / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in sharded.glob("*.safetensors"))
    assert len(files) > 2
    assert files == sorted(set(index["weight_map"].values()))
    first, second = (
        read_tensors(find_checkpoint(directory).weights) for directory in (whole, sharded)
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in first.values())
    transformers = pytest.importorskip("transformers")
    loaded = transformers.ChineseCLIPModel.from_pretrained(sharded).state_dict()
    for name, value in first.items():
        if name != "text_model.embeddings.word_embeddings.weight":  # it zeroes [PAD]'s row
            assert torch.equal(loaded[name], value), name


@pytest.mark.parametrize("modelscope", ["ViT-B-16"], indirect=True)
def test_hints_are_for_files_without_a_configuration(modelscope: Path, tmp_path: Path) -> None:
    with pytest.raises(cnclip.errors.InvalidInputError, match="can only be set for .pt files"):
        convert(modelscope, tmp_path / "a.pt", vision_head_width=64)
    with pytest.raises(cnclip.errors.InvalidInputError, match="to: expected one of archive"):
        convert(modelscope, tmp_path / "a.pt", to="tflite")
    with pytest.raises(FileExistsError, match="exists") as raised:
        convert(modelscope, modelscope, to="huggingface")
    assert isinstance(raised.value, cnclip.errors.InvalidInputError)
    assert raised.value.where == cnclip.errors.Where(file=str(modelscope))


def test_a_resnet_has_no_hugging_face_format(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(random_weights(smaller("RN50")), path)
    with pytest.raises(cnclip.errors.CheckpointError, match="no ResNet"):
        convert(path, tmp_path / "out", to="huggingface")
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]
