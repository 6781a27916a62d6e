"""The model of `cnclip.cn_clip`: features, types, gradients, and how it is opened."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import cnclip
from cnclip import cn_clip
from cnclip.checkpoints.published_sizes import TEXT_SIZES, VISION_SIZES
from cnclip.cn_clip.clip import utils
from cnclip.cn_clip.clip.model import CLIP, convert_models_to_fp32
from cnclip.convert import convert
from cnclip.errors import (
    CheckpointError,
    DeviceError,
    InputTypeError,
    InvalidInputError,
    ModelNotFoundError,
)
from cnclip.modeling.clip import half_precision_names
from tests.support.cn_clip_peer import FILE, write_published
from tests.support.families import random_weights, smaller

TEXTS = ["猫", "一个在逛公园的女孩", "", "cat 和 dog", "很" * 60]
NAMES = ["ViT-B-16", "RN50"]
CAT = Path(cnclip.__file__).parent / "assets" / "gallery" / "1f408.png"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    for name in NAMES:
        write_published(made, name, utils._MODELS[name][1])
    return made


@pytest.fixture(scope="module")
def opened(folder: Path) -> dict[str, CLIP]:
    """Models that no test may change."""
    return {name: cn_clip.load_from_name(name, "cpu", folder)[0] for name in NAMES}


def noise(count: int, model: CLIP) -> Tensor:
    side = model.config.vision.resolution
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NAMES)
def test_features_are_the_pipelines_before_they_get_unit_length(
    name: str, folder: Path, opened: dict[str, CLIP]
) -> None:
    model, preprocess = cn_clip.load_from_name(name, device="cpu", download_root=folder)
    # Not noise, with which this model of random weights multiplies differences of rounding.
    image = Image.open(CAT).convert("RGB")
    with torch.no_grad():
        images = model.encode_image(preprocess(image)[None])
        texts = model.encode_text(cn_clip.tokenize(TEXTS))
    assert float(images.norm()) > 2 and images.dtype == torch.float32
    p = cnclip.pipeline(model=folder / utils._MODELS[name][1], device="cpu")
    expected = p.forward({"img": image, "text": TEXTS})
    for rows, key in ((images, "img_embedding"), (texts, "text_embedding")):
        unit = rows / rows.norm(dim=1, keepdim=True)
        np.testing.assert_allclose(unit.numpy(), expected[key], rtol=0, atol=2e-6)
    assert 1 / model.logit_scale.exp().item() == pytest.approx(float(p.model.temperature))
    assert not model.training and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_similarities(name: str, opened: dict[str, CLIP]) -> None:
    model = opened[name]
    pixels, ids = noise(2, model), cn_clip.tokenize(TEXTS)
    per_image, per_text = model.get_similarity(pixels, ids)
    images, texts, scale = model(pixels, ids)
    assert torch.equal(per_text, per_image.t()) and per_image.shape == (2, len(TEXTS))
    torch.testing.assert_close(per_image, scale * images @ texts.t(), rtol=0, atol=1e-5)
    for rows in (images, texts):
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows)))
    assert torch.equal(model(pixels, None), model.encode_image(pixels))
    assert torch.equal(model(None, ids), model.encode_text(ids))
    with pytest.raises(TypeError, match="None for both"):
        model(None, None)


def test_many_texts_of_different_lengths(opened: dict[str, CLIP]) -> None:
    model = opened["ViT-B-16"]
    texts = ["猫" * (n * 7 % 50) for n in range(90)]
    ids = cn_clip.tokenize(texts)
    one_by_one = torch.cat([model.encode_text(row[None]) for row in ids]).detach()
    with torch.no_grad():
        torch.testing.assert_close(model.encode_text(ids), one_by_one, rtol=0, atol=2e-5)
        assert model.encode_text(ids[:0]).shape == (0, 24)
    torch.testing.assert_close(model.encode_text(ids), one_by_one, rtol=0, atol=2e-5)


def test_columns_of_padding_are_not_computed(opened: dict[str, CLIP]) -> None:
    model = opened["ViT-B-16"]
    seen: list[int] = []
    hook = model.bert.encoder.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    model.encode_text(cn_clip.tokenize(["猫", "一个在逛公园的女孩"]))
    hook.remove()
    assert [x.shape[1] for x in seen] == [11]


def test_a_traced_graph_takes_longer_texts(opened: dict[str, CLIP]) -> None:
    model = opened["ViT-B-16"]

    class Texts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Tensor) -> Tensor:
            return self.model.encode_text(ids)

    short, long = cn_clip.tokenize("猫"), cn_clip.tokenize("一个在逛公园的女孩")
    with torch.no_grad():
        expected = model.encode_text(long)
        exported = torch.export.export(Texts(), (short,)).module()
        torch.testing.assert_close(exported(long), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types(dtype: torch.dtype, opened: dict[str, CLIP]) -> None:
    for name in NAMES:
        model = copy.deepcopy(opened[name])
        ids, pixels = cn_clip.tokenize(TEXTS), noise(2, model)
        expected = [model.encode_image(pixels), model.encode_text(ids)]
        model.to(dtype)
        assert model.dtype == dtype
        bound = 0 if dtype == torch.float64 else 0.05
        for rows, before in zip(
            [model.encode_image(pixels), model.encode_text(ids)], expected, strict=True
        ):
            assert rows.dtype == dtype
            difference = (rows.float() - before).norm(dim=1) / before.norm(dim=1)
            assert float(difference.detach().max()) <= bound + 1e-5, name


def test_cn_clips_mixed_types(folder: Path, opened: dict[str, CLIP]) -> None:
    model = copy.deepcopy(opened["ViT-B-16"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    utils.convert_weights(model)
    halves = half_precision_names(model)
    for name, value in model.state_dict().items():
        assert value.dtype == (torch.float16 if name in halves else torch.float32), name
        assert torch.equal(value.float(), before[name]), name  # they were rounded when read
    assert "visual.transformer.resblocks.0.attn.in_proj_weight" in halves
    rows = model.encode_image(noise(2, model))
    assert rows.dtype == torch.float16
    rows.float().sum().backward()
    assert model.visual.conv1.weight.grad is not None
    convert_models_to_fp32(model)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.visual.conv1.weight.grad.dtype == torch.float32


def test_weights_are_rounded_as_cn_clip_rounds_them(tmp_path: Path) -> None:
    weights = random_weights(smaller("ViT-B-16"))
    changed = dict(weights)
    for name in ("text_projection", "visual.ln_pre.weight"):
        changed[name] = weights[name] + 1e-5
    torch.save({"state_dict": changed}, tmp_path / "a.pt")
    state = cn_clip.load_from_name(tmp_path / "a.pt", "cpu")[0].state_dict()
    assert torch.equal(state["text_projection"], changed["text_projection"].half().float())
    assert torch.equal(state["visual.ln_pre.weight"], changed["visual.ln_pre.weight"])


def test_training(opened: dict[str, CLIP]) -> None:
    model = copy.deepcopy(opened["ViT-B-16"]).train()
    ids, pixels = cn_clip.tokenize(TEXTS), noise(len(TEXTS), model)
    with torch.no_grad():  # BERT's dropout
        assert not torch.equal(model.encode_text(ids), model.encode_text(ids))
    model.eval()
    losses = []
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(2):
        images, texts, scale = model(pixels, ids)
        logits = scale * images @ texts.t()
        loss = torch.nn.functional.cross_entropy(logits, torch.arange(len(TEXTS)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    used = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"logit_scale", "text_projection", "visual.proj", "visual.conv1.weight"} <= used


def test_recomputed_activations_give_the_same_gradients(opened: dict[str, CLIP]) -> None:
    model = copy.deepcopy(opened["ViT-B-16"])
    gradients = []
    for enabled in (False, True, False):
        model.set_grad_checkpointing(enabled)
        assert model.visual.transformer.recompute is enabled
        model.zero_grad()
        sum(rows.sum() for rows in model(noise(2, model), cn_clip.tokenize(TEXTS[:2]))).backward()
        gradients.append(model.visual.conv1.weight.grad.clone())
    assert torch.equal(gradients[0], gradients[2])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_masked_patches(opened: dict[str, CLIP]) -> None:
    model = opened["ViT-B-16"]
    pixels = noise(2, model)
    whole, masked = model.encode_image(pixels), model.encode_image(pixels, mask_ratio=0.5)
    assert masked.shape == whole.shape and not torch.allclose(masked, whole)
    assert not torch.equal(masked, model.encode_image(pixels, 0.5))  # others each time
    resnet = opened["RN50"]
    pixels = noise(1, resnet)
    assert torch.equal(resnet.encode_image(pixels, 0.5), resnet.encode_image(pixels))


def test_a_model_is_copied_saved_and_loaded(opened: dict[str, CLIP], tmp_path: Path) -> None:
    for name in NAMES:
        model = opened[name]
        copied = copy.deepcopy(model)
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        again = torch.load(file, weights_only=False)
        state = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}
        copied.load_state_dict(state)
        assert not copied.encode_text(cn_clip.tokenize("猫")).any()
        copied.load_state_dict(model.state_dict())
        for other in (copied, again):
            ids = other.tokenizer.convert_tokens_to_ids(other.tokenizer.tokenize("一只猫"))
            assert ids == cn_clip.tokenize("一只猫")[0, 1:4].tolist()
            expected = model.encode_image(noise(1, model))
            assert torch.equal(other.encode_image(noise(1, model)), expected)


# How models are opened


def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    config = smaller("ViT-B-16")
    monkeypatch.setitem(VISION_SIZES, "ViT-B-16", (config.embed_dim, config.vision))
    monkeypatch.setitem(TEXT_SIZES, "RoBERTa-wwm-ext-base-chinese", config.text)


def test_names_of_towers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_sizes(monkeypatch)
    path = folder / FILE
    base = "RoBERTa-wwm-ext-base-chinese"
    model, preprocess = cn_clip.load_from_name(
        str(path),
        device="cpu",
        vision_model_name="ViT-B-16",
        text_model_name=base,
        input_resolution=48,
    )
    assert preprocess.resolution == model.visual.input_resolution == 48
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"vision_model_name": "ViT-L-14"}, "embeddings' columns is 24, expected 768"),
        ({"vision_model_name": "RN50"}, "embeddings' columns is 24, expected 1024"),
        ({"text_model_name": "RBT3-chinese"}, "text tower's width is 128, expected 768"),
        ({"input_resolution": 224}, "vision tower's resolution is 48, expected 224"),
    ]
    for arguments, message in wrong:
        with pytest.raises(CheckpointError, match=message) as raised:
            cn_clip.load_from_name(path, "cpu", **arguments)
        assert raised.value.where is not None and raised.value.where.file == str(path)
    with pytest.raises(InvalidInputError, match=r"vision_model_name: expected one of RN50, .*'B'"):
        cn_clip.load_from_name(path, "cpu", vision_model_name="B")


def test_every_model_that_the_pipeline_opens(folder: Path, tmp_path: Path) -> None:
    theirs, archive = tmp_path / "theirs", tmp_path / "a.cnclip.pt"
    convert(folder / FILE, theirs, to="huggingface")
    convert(folder / FILE, archive)
    expected = cn_clip.load_from_name("ViT-B-16", "cpu", folder)[0].state_dict()
    for place in (theirs, archive):
        state = cn_clip.load_from_name(place, "cpu")[0].state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], value) for name, value in expected.items())
    with pytest.raises(CheckpointError, match="its vocabulary is not the published models'"):
        cn_clip.load_from_name("emoji-cn", "cpu")


def test_what_cannot_be_opened(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no model 'ViT-B-99'"):
        cn_clip.load_from_name("ViT-B-99", "cpu")
    with pytest.raises(InputTypeError, match="name: expected a name or path, got int"):
        cn_clip.load_from_name(3, "cpu")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="device: expected 'cpu'"):
        cn_clip.load_from_name("ViT-B-16", "gpu!", folder)
    with pytest.raises(InputTypeError, match="device: expected str or torch.device, got int"):
        cn_clip.load_from_name("ViT-B-16", 0, folder)  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match=r"no device 'cuda:99': torch finds \d+ GPUs here"):
        cn_clip.load_from_name("ViT-B-16", "cuda:99", folder)
    (tmp_path / FILE).write_text("<html>")
    with pytest.raises(CheckpointError, match=FILE):
        cn_clip.load_from_name("ViT-B-16", "cpu", tmp_path)
    (tmp_path / "clip_cn_rn50.pt").mkdir()
    with pytest.raises(CheckpointError, match="clip_cn_rn50.pt"):
        cn_clip.load_from_name("RN50", "cpu", tmp_path)


def test_the_default_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache/clip").symlink_to(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cn_clip.load_from_name("ViT-B-16", "cpu")[0].config == smaller("ViT-B-16")
    assert cn_clip.available_models() == [
        "ViT-B-16",
        "ViT-L-14",
        "ViT-L-14-336",
        "ViT-H-14",
        "RN50",
    ]
    assert utils._MODEL_INFO["ViT-L-14-336"]["input_resolution"] == 336
