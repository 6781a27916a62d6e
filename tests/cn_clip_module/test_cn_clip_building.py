"""Models built by `create_model` and `load`, and the names of weights with flash attention."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from cnclip import cn_clip
from cnclip.checkpoints.published_sizes import TEXT_SIZES, VISION_SIZES
from cnclip.cn_clip.clip.model import CLIP, convert_state_dict, resize_pos_embed
from cnclip.errors import CheckpointError, InvalidInputError, ModelNotFoundError
from cnclip.modeling.clip import half_precision_names
from tests.support.cn_clip_peer import import_cn_clip, model_info
from tests.support.families import random_weights, smaller

TEXT_NAME = "RoBERTa-wwm-ext-base-chinese"
NAME = f"ViT-B-16@{TEXT_NAME}"
CONFIG = smaller("ViT-B-16")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VISION_SIZES, "ViT-B-16", (CONFIG.embed_dim, CONFIG.vision))
    monkeypatch.setitem(TEXT_SIZES, TEXT_NAME, CONFIG.text)


def checkpoint(prefix: str = "module.") -> dict[str, Any]:
    weights = {f"{prefix}{name}": value for name, value in random_weights(CONFIG).items()}
    return {"epoch": 1, "state_dict": weights}


def equal(model: CLIP, weights: dict[str, torch.Tensor]) -> bool:
    state = model.state_dict()
    return state.keys() == weights.keys() and all(
        torch.equal(state[name].float(), value) for name, value in weights.items()
    )


def test_a_model_of_a_checkpoint() -> None:
    weights = random_weights(CONFIG)
    flash = {"state_dict": convert_state_dict(checkpoint()["state_dict"])}
    for content in (checkpoint(), checkpoint(""), weights, flash):
        model = cn_clip.create_model(NAME, content)
        assert equal(model, weights) and model.training
        halves = half_precision_names(model)
        types = {name: value.dtype for name, value in model.state_dict().items()}
        assert {name for name, dtype in types.items() if dtype == torch.float16} == halves


def test_a_model_without_weights() -> None:
    model = cn_clip.create_model(NAME).float().eval()
    rows = model.encode_text(cn_clip.tokenize("猫")).detach()
    assert bool(rows.isfinite().all()) and float(rows.norm()) > 0
    assert model.logit_scale.exp().item() == pytest.approx(1 / 0.07, rel=1e-3)


def test_what_is_not_a_model() -> None:
    for name in ("ViT-B-16", "ViT-B-16@BERT", f"VGG@{TEXT_NAME}"):
        with pytest.raises(InvalidInputError, match=r"(vision|text)_model_name: expected one of"):
            cn_clip.create_model(name)
    weights = checkpoint()["state_dict"]
    del weights["module.text_projection"]
    with pytest.raises(CheckpointError, match="checkpoint: .*no tensor text_projection"):
        cn_clip.create_model(NAME, {"state_dict": weights})
    with pytest.raises(CheckpointError, match="checkpoint: visual.proj: expected a tensor"):
        cn_clip.create_model(NAME, {"visual.proj": 3})


def test_names_of_flash_attention_and_back() -> None:
    weights = checkpoint()["state_dict"]
    flash = convert_state_dict(weights)
    assert "module.visual.transformer.resblocks.0.attn.Wqkv.weight" in flash
    assert "module.bert.encoder.layer.1.attention.self.Wqkv.bias" in flash
    assert not any(".query." in name or ".in_proj" in name for name in flash)
    again = convert_state_dict(flash)
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], value) for name, value in weights.items())
    theirs = import_cn_clip().convert_state_dict(dict(weights))
    assert flash.keys() == theirs.keys()
    assert all(torch.equal(flash[name], value) for name, value in theirs.items())


def test_weights_of_two_files(tmp_path: Path) -> None:
    weights = random_weights(CONFIG)
    vision = {k: v + 1 for k, v in weights.items() if k.startswith("visual.")}
    vision["logit_scale"] = torch.tensor(3.0)
    text = {k: v + 2 for k, v in weights.items() if k.startswith("bert.")}
    torch.save(vision | {"token_embedding.weight": torch.zeros(2)}, tmp_path / "clip.pt")
    more = {"bert.pooler.dense.weight": torch.zeros(2), "cls.bias": torch.zeros(2)}
    torch.save(text | more, tmp_path / "bert.bin")
    model = cn_clip.create_model(NAME, checkpoint())
    loaded = cn_clip.load(model, "cpu", tmp_path / "clip.pt", tmp_path / "bert.bin")
    assert loaded is model and not model.training and model.dtype == torch.float32
    halves = half_precision_names(model)
    for name, value in model.state_dict().items():
        expected = (vision | text).get(name, weights[name])
        expected = expected.half().float() if name in halves else expected
        assert torch.equal(value, expected), name
    with pytest.raises(ModelNotFoundError, match="none.pt"):
        cn_clip.load(model, "cpu", tmp_path / "none.pt")


def test_a_position_embedding_of_another_size() -> None:
    vision = dataclasses.replace(CONFIG.vision, resolution=5 * 16)
    model = CLIP(dataclasses.replace(CONFIG, vision=vision))
    name = "visual.positional_embedding"
    weights = {name: random_weights(CONFIG)[name]}
    resized = dict(weights)
    resize_pos_embed(resized, model)
    assert resized[name].shape == (26, CONFIG.vision.width)
    assert torch.equal(resized[name][0], weights[name][0])
    for old, new in ((1, 1), (3, 5), (9, 25)):  # corners keep their place
        torch.testing.assert_close(resized[name][new], weights[name][old])
    same = dict(resized)
    resize_pos_embed(same, model)
    assert same[name] is resized[name]


@pytest.mark.parametrize("name", ["ViT-B-16", "RN50"])
def test_the_real_model_computes_the_same(name: str) -> None:
    theirs = import_cn_clip()
    config = smaller(name)
    real = theirs.model.CLIP(**model_info(config)).eval()
    ours = CLIP(config).eval()
    weights = random_weights(config)
    ours.load_weights(weights)
    missing, unknown = real.load_state_dict(weights, strict=False)
    assert not unknown and all("pooler" in key or "num_batches" in key for key in missing)
    side = config.vision.resolution
    pixels = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(2))
    ids = cn_clip.tokenize(["猫", "一个在逛公园的女孩", ""])
    outputs = []
    for model in (ours, real):
        image, text = model.encode_image(pixels), model.encode_text(ids)
        model.get_similarity(pixels, ids)[0].sum().backward()
        gradients = [model.visual.conv1.weight.grad, model.text_projection.grad]
        outputs.append([image, text, *model(pixels, ids), *gradients])
    for own, other in zip(*outputs, strict=True):
        bound = 2e-5 * max(1.0, float(other.detach().abs().max()))
        torch.testing.assert_close(own, other, rtol=0, atol=bound)
    names = [key for key, _ in real.state_dict().items() if "pooler" not in key]
    assert sorted(names) == sorted(ours.state_dict())
