"""Hugging Face's directories: files, values, damage, and the numbers of transformers."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cnclip
from cnclip import pipeline
from cnclip.checkpoints.files import find_checkpoint
from cnclip.convert import convert
from cnclip.models import read_files

pytest.importorskip("safetensors")

from tests.support.families import (
    TEXTS,
    WORDS,
    check_same,
    checkpoint_of,
    embed,
    head_width,
    random_weights,
    smaller,
)


@pytest.fixture(scope="module")
def image() -> Image.Image:
    random = np.random.default_rng(0)
    return Image.fromarray(random.integers(0, 256, (50, 70, 3), np.uint8))


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cnclip.checkpoints.huggingface import write_huggingface

    directory = tmp_path_factory.mktemp("huggingface")
    write_huggingface(checkpoint_of(smaller("ViT-B-16")), directory)
    return directory


@pytest.fixture
def huggingface(unchanged: Path, tmp_path: Path) -> Path:
    """A copy of the directory, which a test may change."""
    return Path(shutil.copytree(unchanged, tmp_path / "huggingface"))


def change(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text())
    for key, value in values.items():
        part, _, key = key.rpartition("__")
        (content[part] if part else content)[key] = value
    path.write_text(json.dumps(content))


def shard(directory: Path, suffix: str) -> None:
    """Split the weights into two files with an index, as transformers does."""
    from safetensors.torch import load_file, save_file

    weights = load_file(directory / "model.safetensors")
    names = sorted(weights)
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    places = {}
    for number, some in ((1, names[::2]), (2, names[1::2])):
        file = f"{stem}-0000{number}-of-00002.{suffix}"
        part = {name: weights[name] for name in some}
        places |= dict.fromkeys(some, file)
        if suffix == "safetensors":
            save_file(part, directory / file)
        else:
            torch.save(part, directory / file)
    index = {"metadata": {}, "weight_map": places}
    (directory / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    (directory / "model.safetensors").unlink()


def to_pickle(directory: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(directory / "model.safetensors")
    weights["text_model.embeddings.position_ids"] = torch.arange(512)[None]
    weights["text_model.pooler.dense.weight"] = torch.zeros(128, 128)
    torch.save(weights, directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()


def to_old_names(directory: Path) -> None:
    from safetensors.torch import load_file, save_file

    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    weights = load_file(directory / "model.safetensors")
    for name in list(weights):
        for suffix in old:
            if name.endswith(suffix):
                weights[name.replace(suffix, old[suffix])] = weights.pop(name)
    save_file(weights, directory / "model.safetensors")


def to_tokenizer(directory: Path) -> None:
    words = (directory / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    vocab = {word: i for i, word in reversed(list(enumerate(words)))}
    content = {
        "version": "1.0",
        "added_tokens": [{"id": vocab["[PAD]"], "content": "[PAD]", "special": True}],
        "normalizer": {"type": "BertNormalizer", "lowercase": True, "strip_accents": None},
        "model": {"type": "WordPiece", "vocab": vocab},
    }
    (directory / "tokenizer.json").write_text(json.dumps(content))
    (directory / "vocab.txt").unlink()


@pytest.mark.parametrize(
    "rearrange",
    [
        lambda d: shard(d, "safetensors"),
        lambda d: shard(d, "bin"),
        to_pickle,
        to_old_names,
        to_tokenizer,
        lambda d: (d / "preprocessor_config.json").unlink(),
    ],
    ids=["shards", "shards of pickles", "pickle", "old names", "tokenizer.json", "no preprocessor"],
)
def test_hugging_faces_files(
    huggingface: Path, rearrange: Callable[[Path], None], image: Image.Image
) -> None:
    expected = embed(huggingface, image)
    rearrange(huggingface)
    check_same(huggingface, image, expected)


def test_mean_and_std_are_the_preprocessors(huggingface: Path, image: Image.Image) -> None:
    path = huggingface / "preprocessor_config.json"
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 2]
    change(path, image_mean=mean, image_std=std)
    found = pipeline(model=huggingface, device="cpu")
    pixels = found.preprocess({"img": image})["img"]
    assert found.model.info.mean == tuple(mean)
    plain = np.asarray(image.resize((48, 48), Image.Resampling.BICUBIC), np.float32) / 255
    expected = (plain - np.array(mean, np.float32)) / np.array(std, np.float32)
    np.testing.assert_allclose(pixels[0].transpose(1, 2, 0), expected, atol=1e-6)
    with pytest.raises(cnclip.errors.CheckpointError, match="cannot store a mean"):
        convert(huggingface, huggingface.with_name("out"), to="modelscope")
    change(path, do_normalize=False)
    assert pipeline(model=huggingface, device="cpu").model.info.std == (1, 1, 1)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        (
            "config.json",
            {"model_type": "clip"},
            "model_type: expected 'chinese_clip', found 'clip'",
        ),
        ("config.json", {"vision_config": []}, "vision_config: expected an object"),
        ("config.json", {"vision_config__hidden_act": "gelu"}, "vision_config.hidden_act"),
        ("config.json", {"vision_config__intermediate_size": 7}, "intermediate_size: expected 512"),
        ("config.json", {"vision_config__num_attention_heads": 3}, "heads: expected a divisor of"),
        (
            "config.json",
            {"text_config__num_attention_heads": 3},
            "heads: expected a divisor of 128",
        ),
        ("config.json", {"text_config__layer_norm_eps": 1e-5}, "layer_norm_eps: expected 1e-12"),
        (
            "config.json",
            {"text_config__hidden_act": "mish"},
            "text_config.hidden_act: expected one",
        ),
        (
            "config.json",
            {"vision_config__patch_size": 100},
            "patch_size: expected an integer from 1 to 48,",
        ),
        ("config.json", {"vision_config__num_hidden_layers": 3}, "no tensor vision_model.encoder"),
        ("config.json", {"vision_config__num_hidden_layers": 1}, "a tensor vision_model.encoder"),
        (
            "config.json",
            {"projection_dim": 25},
            r"text_projection.weight of shape \[24, 128\], expected \[25, 128\]",
        ),
        ("config.json", {"text_config__vocab_size": 7}, "word_embeddings.*expected|ids up to"),
        (
            "preprocessor_config.json",
            {"size": {"height": 48, "width": 47}},
            "size: expected {'height': 48, 'width': 48} or 48",
        ),
        ("preprocessor_config.json", {"size": 224}, "size: expected {'height': 48"),
        ("preprocessor_config.json", {"size": {"shortest_edge": 48}}, "size: expected {'height'"),
        ("preprocessor_config.json", {"do_resize": False}, "do_resize: expected True"),
        ("preprocessor_config.json", {"resample": 2}, "resample: expected 3, found 2"),
        ("preprocessor_config.json", {"do_rescale": False}, "do_rescale: expected True"),
        ("preprocessor_config.json", {"rescale_factor": 1 / 127.5}, "rescale_factor: expected 0.0"),
        ("preprocessor_config.json", {"do_normalize": None}, "do_normalize: expected True or Fal"),
        ("preprocessor_config.json", {"do_center_crop": True}, "do_center_crop: expected False"),
        (
            "preprocessor_config.json",
            {"do_center_crop": True, "size": 48, "crop_size": 48},
            "do_center_crop: expected False",
        ),
        ("config.json", {"vision_config__num_channels": 4}, "num_channels: expected 3, found 4"),
        (
            "config.json",
            {"text_config__position_embedding_type": "relative_key"},
            "position_embedding_type: expected absolute",
        ),
        ("preprocessor_config.json", {"image_std": [1, 1, 0]}, "image_std: expected three numbers"),
        ("preprocessor_config.json", {"image_mean": [0.5]}, "image_mean: expected three numbers"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_hugging_faces_wrong_values(
    huggingface: Path, file: str, values: dict[str, Any], message: str
) -> None:
    change(huggingface / file, **values)
    with pytest.raises(cnclip.errors.CheckpointError, match=message):
        pipeline(model=huggingface, device="cpu")


@pytest.mark.parametrize(
    "values",
    [
        {"size": None},
        {"size": 48, "do_center_crop": False, "crop_size": 224},
        {"do_center_crop": True, "crop_size": {"height": 48, "width": 48}},
        {"do_center_crop": None, "rescale_factor": 1 / 255},
    ],
    ids=str,
)
def test_hugging_faces_values_that_change_nothing(
    huggingface: Path, values: dict[str, Any], image: Image.Image
) -> None:
    expected = embed(huggingface, image)
    change(huggingface / "preprocessor_config.json", **values)
    check_same(huggingface, image, expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model__type": "BPE"}, "model.type: expected WordPiece, found 'BPE'"),
        ({"model__continuing_subword_prefix": "@@"}, "continuing_subword_prefix: expected ##"),
        ({"model__unk_token": "<unk>"}, r"unk_token: expected \[UNK\]"),
        ({"model__vocab": [["a", 1.0]]}, "model.vocab: expected an object"),
        (
            {"normalizer": {"type": "BertNormalizer", "lowercase": False}},
            "lowercase: expected True",
        ),
        ({"normalizer": {"type": "Lowercase"}}, "normalizer.type: expected BertNormalizer"),
        ({"pre_tokenizer": {"type": "ByteLevel"}}, "type: expected BertPreTokenizer"),
        ({"added_tokens": [{"id": 21128, "content": "[NEW]"}]}, "added_tokens: expected BERT's"),
        ({"added_tokens": [{"id": 0, "content": "猫"}]}, "added_tokens: expected BERT's"),
        ({"added_tokens": [{"id": 1, "content": "[PAD]"}]}, "added_tokens: expected BERT's"),
        ({"added_tokens": [5]}, "added_tokens: expected BERT's"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_tokenizers_of_another_kind(
    huggingface: Path, values: dict[str, Any], message: str
) -> None:
    to_tokenizer(huggingface)
    change(huggingface / "tokenizer.json", **values)
    with pytest.raises(cnclip.errors.CheckpointError, match=message):
        pipeline(model=huggingface, device="cpu")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, "expected words with ids from 0 on, each once"),
        ({"a": 0, "b": 2}, "expected words with ids from 0 on, each once"),
        ({"a": 0, "b": 0}, "expected words with ids from 0 on, each once"),
        ({"a": 0, "b": True}, "expected words with ids from 0 on, each once"),
        ({"a\nb": 0}, "a word with a line break"),
        ({"\ud800": 0}, "surrogates not allowed"),
    ],
    ids=str,
)
def test_words_of_no_vocabulary(huggingface: Path, words: dict[str, Any], message: str) -> None:
    to_tokenizer(huggingface)
    path = huggingface / "tokenizer.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["model"]["vocab"], settings["added_tokens"] = words, []
    path.write_text(json.dumps(settings))
    with pytest.raises(cnclip.errors.CheckpointError, match=rf"tokenizer\.json.*{message}"):
        pipeline(model=huggingface, device="cpu")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"", "model.safetensors: damaged"),
        ("model.safetensors", b"\xff" * 8 + b"{}", "model.safetensors: damaged"),
        ("model.safetensors", (2).to_bytes(8, "little") + b"{}", "it contains no tensors"),
        ("config.json", b"{", "config.json: "),
        ("config.json", b"[]", "config.json: expected a JSON object"),
        ("vocab.txt", b"[PAD]\n", r"\[UNK\]"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_hugging_faces_damaged_files(
    huggingface: Path, name: str, content: bytes, message: str
) -> None:
    (huggingface / name).write_bytes(content)
    with pytest.raises(cnclip.errors.CheckpointError, match=message):
        pipeline(model=huggingface, device="cpu")


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"a": "../secret"}, "expected names of files in its folder"),
        ({"a": "nowhere.safetensors"}, "there is no file 'nowhere.safetensors'"),
        ({"a": 5}, "expected names of files in its folder"),
        ([], "weight_map: expected an object"),
    ],
)
def test_indexes_that_lead_elsewhere(huggingface: Path, places: Any, message: str) -> None:
    shard(huggingface, "safetensors")
    change(huggingface / "model.safetensors.index.json", weight_map=places)
    with pytest.raises(cnclip.errors.CheckpointError, match=message):
        pipeline(model=huggingface, device="cpu")


def test_a_tensor_in_two_files(huggingface: Path) -> None:
    shard(huggingface, "bin")
    torch.save({"logit_scale": torch.ones(())}, huggingface / "more.bin")
    index = huggingface / "pytorch_model.bin.index.json"
    places = json.loads(index.read_text())["weight_map"]
    change(index, weight_map=places | {"x": "more.bin"})
    with pytest.raises(cnclip.errors.CheckpointError, match="logit_scale is in another file too"):
        pipeline(model=huggingface, device="cpu")


def test_safetensors_is_an_extra(huggingface: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNCLIP_CACHE", str(huggingface.with_name("cache")))
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(
        cnclip.errors.MissingExtraError, match=r"pip install 'cnclip\[huggingface\]'"
    ):
        pipeline(model=huggingface, device="cpu")


# Against transformers


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-L-14-336", "ViT-H-14"])
def test_transformers_gives_the_same(name: str, image: Image.Image, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    ours = tmp_path / "ours.pt"
    weights = random_weights(smaller(name))
    torch.save(weights, ours)
    directory = convert(ours, tmp_path / "theirs", to="huggingface", **head_width(name))
    theirs = transformers.ChineseCLIPModel.from_pretrained(directory).eval()
    found = pipeline(model=directory, device="cpu")
    arrays = found.preprocess({"img": image, "text": TEXTS})
    ids = torch.from_numpy(arrays["text"])
    with torch.no_grad():
        rows = {
            "img_embedding": theirs.get_image_features(torch.from_numpy(arrays["img"])),
            "text_embedding": theirs.get_text_features(ids, attention_mask=ids.ne(0).long()),
        }
    answer = found.forward({"img": image, "text": TEXTS})
    for key, value in rows.items():
        value = getattr(value, "pooler_output", value)
        value = value / value.norm(dim=-1, keepdim=True)
        np.testing.assert_allclose(answer[key], value.numpy(), rtol=0, atol=2e-6)
    theirs.save_pretrained(tmp_path / "again")
    (tmp_path / "again" / "vocab.txt").write_bytes(WORDS.read_bytes())
    again = read_files(find_checkpoint(tmp_path / "again"))
    words = weights["bert.embeddings.word_embeddings.weight"].clone()
    words[0] = 0  # transformers does so to [PAD]
    weights["bert.embeddings.word_embeddings.weight"] = words
    assert all(torch.equal(again.weights[tensor], value) for tensor, value in weights.items())
