"""`CLIPPreprocessor` in training, with another tokenizer, and the model's `forward` of its ids."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
from cnclip.errors import InputTypeError, InvalidInputError  # noqa: E402
from cnclip.modelscope.clip import CLIPForMultiModalEmbedding  # noqa: E402
from cnclip.modelscope.pipelines import Pipeline, pipeline  # noqa: E402
from cnclip.modelscope.preprocessors import (  # noqa: E402
    CLIPPreprocessor,
    LoadImage,
    Preprocessor,
)
from cnclip.modelscope.tokenizer import FullTokenizer  # noqa: E402
from cnclip.train.auto_augment import _OPERATIONS, _POLICY, auto_augment  # noqa: E402


@pytest.fixture(scope="module")
def model(vit_directory: Path) -> CLIPForMultiModalEmbedding:
    return CLIPForMultiModalEmbedding(vit_directory, device="cpu")


def same(rows: Any, expected: Any) -> None:
    torch.testing.assert_close(rows, expected, rtol=0, atol=2e-6)


def test_ids_without_gradients_make_no_towers(vit_directory: Path, texts: list[str]) -> None:
    model = CLIPForMultiModalEmbedding(vit_directory, device="cpu")
    ids = CLIPPreprocessor(vit_directory).tokenize(texts)
    rows = model({"text": ids})["text_embedding"]
    assert np.array_equal(rows, model.core.forward({"text": texts})["text_embedding"])
    for other in (ids.int(), ids.unsqueeze(1), ids.t().contiguous().t(), ids[:, :52]):
        assert torch.equal(model({"text": other})["text_embedding"], rows)
    assert model({"text": ids[:0]})["text_embedding"].shape == (0, 64)
    assert not model.is_loaded
    with pytest.raises(InvalidInputError, match=r"text\[0\]: column 1: expected an id"):
        model({"text": torch.tensor([[101, 30000, 102]])})


def test_ids_that_need_the_towers(model: CLIPForMultiModalEmbedding, texts: list[str]) -> None:
    preprocessor = CLIPPreprocessor(model.model_dir)
    ids = preprocessor.tokenize(texts)
    expected = model({"text": ids})["text_embedding"]
    same(model({"text": preprocessor.tokenize(texts, 77)})["text_embedding"][:5], expected[:5])
    trained = model({"text": ids, "mode": "train"})["text_embedding"]
    assert trained.requires_grad
    same(trained.detach(), expected)
    with torch.no_grad():
        for parameter in model.clip_model.bert.parameters():
            parameter.mul_(1.01)
    changed = model({"text": ids})["text_embedding"]
    assert not changed.requires_grad and (changed - expected).abs().max() > 1e-4


@pytest.mark.parametrize("value", ["猫", ["猫"], None, 3])
def test_inputs_that_are_no_dict(model: CLIPForMultiModalEmbedding, value: Any) -> None:
    pipe = pipeline("multi-modal-embedding", model=model)
    for use in (pipe.forward, pipe.preprocess, pipe.preprocessor):
        with pytest.raises(InputTypeError, match=r"expected a dict with 'img' or 'text'"):
            use(value)


def test_training_changes_images(vit_directory: Path, photo: Image.Image, tmp_path: Path) -> None:
    training = CLIPPreprocessor(vit_directory, mode="train")
    plain = CLIPPreprocessor(vit_directory)
    photo.convert("RGB").save(tmp_path / "photo.png")
    given = [photo.convert("RGB"), np.asarray(photo.convert("RGB")), str(tmp_path / "photo.png")]
    results = []
    for _ in range(2):
        random.seed(3)
        results.append(training({"img": given, "text": "猫"}))
    assert torch.equal(results[0]["img"], results[1]["img"])
    unchanged = plain({"img": given, "text": "猫"})
    assert torch.equal(results[0]["text"], unchanged["text"])
    assert results[0]["img"].shape == unchanged["img"].shape
    differences = (results[0]["img"] - unchanged["img"]).abs().mean(dim=(1, 2, 3))
    assert (differences > 0.01).all()
    random.seed(3)
    assert torch.equal(training.img_preprocess(given[0]), results[0]["img"][0])


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (40, 50)])
def test_every_operation_of_the_policy(size: tuple[int, int]) -> None:
    assert len(_POLICY) == 25 and {name for pair in _POLICY for name, _, _ in pair} == {
        *_OPERATIONS
    }
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    image = Image.fromarray(noise)
    for seed in range(60):
        changed = auto_augment(image, np.random.default_rng(seed), 16)
        assert (changed.size, changed.mode) == ((16, 16), "RGB")
    for operation in _OPERATIONS.values():
        for level in range(11):
            assert operation(image, level, np.random.default_rng(level)).size == size


def test_another_tokenizer_and_resolution(vit_directory: Path) -> None:
    cased = FullTokenizer(vit_directory / "vocab.txt", do_lower_case=False)
    preprocessor = CLIPPreprocessor(vit_directory, tokenizer=cased, resolution=16)
    given = {"img": Image.new("RGB", (5, 5)), "text": ["Hello 猫", "hello 猫"]}
    tensors = preprocessor(given)
    unknown, known = tensors["text"].tolist()
    assert tensors["img"].shape == (1, 3, 16, 16)
    assert unknown[1] == cased.vocab["[UNK]"] != known[1]
    # A pipeline uses the preprocessor that it is given.
    tokens = CLIPPreprocessor(vit_directory, tokenizer=cased)
    opened = pipeline("multi-modal-embedding", str(vit_directory), preprocessor=tokens)
    rows = opened.forward({"text": given["text"]})["text_embedding"]
    expected = opened.model({"text": tensors["text"]})["text_embedding"]
    same(rows, expected)
    assert (rows[0] - rows[1]).abs().max() > 1e-4
    tokens.set_input_text_key("query")
    same(opened.forward({"query": given["text"]})["text_embedding"], expected)
    for bad in ("large", 0, 2.5):
        with pytest.raises((InputTypeError, InvalidInputError), match="resolution"):
            CLIPPreprocessor(vit_directory, resolution=bad)


def test_load_image_as_its_options_say(photo: Image.Image, tmp_path: Path) -> None:
    path = str(tmp_path / "a.png")
    photo.save(path)
    pixels = np.asarray(photo)
    found = LoadImage()(path)
    assert np.array_equal(found.pop("img"), pixels)
    assert found == {"filename": path, "img_shape": (225, 223, 3), "img_field": "img"}
    kept = LoadImage("L")({"filename": path, "label": 7})
    assert kept["img"].mode == "L" and kept["label"] == 7
    assert np.array_equal(LoadImage("rgb", backend="cv2")(path)["img"], pixels)
    assert np.array_equal(LoadImage("bgr", backend="cv2")(path)["img"], pixels[..., ::-1])
    assert repr(LoadImage("bgr")) == "LoadImage(mode=BGR)"


def test_anything_to_an_image(photo: Image.Image, tmp_path: Path) -> None:
    path = str(tmp_path / "a.png")
    photo.save(path)
    pixels = np.asarray(photo)
    for given in (path, photo, {"image": path}, {"image": photo}, pixels[..., ::-1]):
        image = LoadImage.convert_to_img(given)
        assert image.mode == "RGB" and np.array_equal(image, pixels)
        assert np.array_equal(LoadImage.convert_to_ndarray(given), pixels)
    gray = pixels[..., 0]
    assert np.array_equal(LoadImage.convert_to_img(gray), np.stack([gray] * 3, axis=2))


def test_a_preprocessor_and_a_pipeline_of_ones_own() -> None:
    class Half(Preprocessor):
        def __call__(self, input: Any, *_: Any, **__: Any) -> dict[str, Any]:
            return {"half": torch.tensor(input / 2, requires_grad=True)}

    def model(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"sum": inputs["half"] + 1}

    own = Pipeline(model, Half())
    assert own(4)["sum"].item() == 3 and not own(4)["sum"].requires_grad
    assert [one["sum"].item() for one in own([2, 4])] == [2, 3]
    lazy = own(number for number in (2, 4))
    assert next(lazy)["sum"].item() == 2 and next(lazy)["sum"].item() == 3
    assert (own.models, own.has_multiple_models) == ([model], False)
    with pytest.raises(NotImplementedError, match="Preprocessor"):
        Preprocessor()(1)


def test_pipelines_of_an_open_model(vit_directory: Path, texts: list[str]) -> None:
    model = CLIPForMultiModalEmbedding(vit_directory, device="cpu")
    made = pipeline("multi-modal-embedding", model=[model], device="cpu")
    assert made.model is model and made.device == torch.device("cpu") == torch.device(
        made.device_name
    )
    assert made.cfg.task == "multi-modal-embedding"
    rows = made({"text": texts[:3]})["text_embedding"]
    same(rows, torch.from_numpy(model.core.forward({"text": texts[:3]})["text_embedding"]))
    loaded = Preprocessor.from_pretrained(vit_directory)
    assert torch.equal(loaded.tokenize(texts), made.preprocessor.tokenize(texts))
    for arguments, words in (
        ((None,), "task: expected one of multi-modal-embedding, .* got None"),
        (("image-captioning",), "task: Chinese-CLIP is for .* got 'image-captioning'"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            pipeline(*arguments, model=model)


def test_a_model_is_moved_and_converted(vit_directory: Path, texts: list[str]) -> None:
    model = CLIPForMultiModalEmbedding(vit_directory, device="cpu")
    rows = model.core.forward({"text": texts[:4]})["text_embedding"]
    assert model.to("cpu") is model and model.float() is model
    assert not model.is_loaded  # the towers are made when they are needed
    copied = pickle.loads(pickle.dumps(model))
    assert np.array_equal(copied.core.forward({"text": texts[:4]})["text_embedding"], rows)
    assert [name for name, _ in model.named_children()] == ["clip_model"] and model.is_loaded
    assert model.float().core_is_current
    ids = torch.from_numpy(model.core.preprocessor.tokenize(texts[:4]))
    assert model.double() is model and not model.core_is_current
    assert next(model.parameters()).dtype == torch.float64
    same(model.float()({"text": ids})["text_embedding"].detach(), torch.from_numpy(rows))
    assert model.temperature.item() == pytest.approx(model.core.model.info.temperature, rel=1e-6)
    with torch.no_grad():
        model.clip_model.logit_scale.fill_(0)
    assert model.temperature.item() == 1


def test_the_sizes_of_a_model(model: CLIPForMultiModalEmbedding) -> None:
    settings = [
        json.loads((Path(model.model_dir) / name).read_text(encoding="utf-8"))
        for name in ("vision_model_config.json", "text_model_config.json")
    ]
    assert model.model_info == settings[0] | settings[1]
