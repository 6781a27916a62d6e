"""The pipeline: what it takes, refuses and answers."""

from __future__ import annotations

import inspect
import io
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cnclip
from cnclip import _core
from cnclip.outputs import OutputKeys
from cnclip.pipelines import MultiModalEmbeddingPipeline, pipeline
from cnclip.pipelines.builder import choose_device
from cnclip.utils.constant import Tasks
from tests.support.twins.image import pillow_tensor

# The example of the published model card, with its imports changed, tensors asked for, and a model
# and an image that are on this machine.
MODEL_CARD = """
import torch
from cnclip.utils.constant import Tasks
from cnclip.pipelines import pipeline
from cnclip.preprocessors.image import load_image

pipeline = pipeline(task=Tasks.multi_modal_embedding,
    model=MODEL, return_tensors='pt')
input_img = load_image(IMAGE)
input_texts = ["杰尼龟", "妙蛙种子", "小火龙", "皮卡丘"]

img_embedding = pipeline.forward({'img': input_img})['img_embedding']
text_embedding = pipeline.forward({'text': input_texts})['text_embedding']

with torch.no_grad():
    logits_per_image = (img_embedding / pipeline.model.temperature) @ text_embedding.t()
    probs = logits_per_image.softmax(dim=-1).cpu().numpy()

print("图文匹配概率:", probs)
"""

ODD_MODES = "1 L LA La P PA RGBA RGBa RGBX CMYK YCbCr HSV LAB I I;16 I;16L I;16B F".split()


def image_of_mode(mode: str, photo: Image.Image) -> Image.Image:
    """The photograph in a mode, with an alpha channel that is not everywhere full."""
    gray = photo.convert("L")
    if mode.startswith("I;16"):
        values = np.asarray(gray).astype(np.uint16) * 257
        content = values.astype(">u2" if mode.endswith("B") else "<u2").tobytes()
        return Image.frombytes(mode, photo.size, content)
    if mode == "LA":
        return Image.merge("LA", [gray, gray])
    if mode == "La":
        return image_of_mode("LA", photo).convert("La")
    if mode == "PA":
        return photo.quantize(17).convert("PA")
    if mode in ("RGBA", "RGBa"):
        return Image.merge("RGBA", [*photo.split(), gray]).convert(mode)
    if mode == "LAB":
        return Image.merge("LAB", photo.split())
    return photo.convert(mode)


def rows(answer: dict[str, Any]) -> Any:
    """The one embedding of an answer that has one."""
    (found,) = [value for value in answer.values() if value is not None]
    return found


# What a call answers


def test_answers_have_both_keys(vit: MultiModalEmbeddingPipeline, photo: Image.Image) -> None:
    both = vit.forward({"img": photo, "text": "猫"})
    assert set(both) == {OutputKeys.IMG_EMBEDDING, OutputKeys.TEXT_EMBEDDING}
    assert both["img_embedding"].shape == both["text_embedding"].shape == (1, 64)
    text = vit.forward({"text": ["猫", "狗"]})
    assert text["img_embedding"] is None
    assert text["text_embedding"].shape == (2, 64)
    image = vit.forward({"img": [photo]})
    assert image["text_embedding"] is None
    assert image["img_embedding"].flags.writeable
    assert image["img_embedding"].flags.c_contiguous


@pytest.mark.parametrize("given", [{}, {"img": None}, {"text": None}, {"img": None, "text": None}])
def test_nothing_to_embed(vit: MultiModalEmbeddingPipeline, given: dict[str, Any]) -> None:
    assert vit.forward(given) == {"img_embedding": None, "text_embedding": None}
    assert vit.preprocess(given) == {}


@pytest.mark.parametrize("key", ["img", "text"])
def test_empty_lists_answer_no_rows(vit: MultiModalEmbeddingPipeline, key: str) -> None:
    answer = rows(vit.forward({key: []}))
    assert answer.shape == (0, 64)
    assert answer.dtype == np.float32
    shape = (0, 3, 32, 32) if key == "img" else (0, 52)
    assert vit.preprocess({key: []})[key].shape == shape


def test_a_key_beside_the_known_ones_is_ignored(vit: MultiModalEmbeddingPipeline) -> None:
    assert np.array_equal(
        rows(vit.forward({"text": "猫", "mode": "inference"})), rows(vit.forward({"text": "猫"}))
    )


def test_tuples_and_subclasses_of_str(vit: MultiModalEmbeddingPipeline) -> None:
    expected = rows(vit.forward({"text": ["猫", "狗"]}))
    assert np.array_equal(rows(vit.forward({"text": ("猫", "狗")})), expected)
    assert np.array_equal(rows(vit.forward({"text": [np.str_("猫"), np.str_("狗")]})), expected)


@pytest.mark.parametrize(
    "text", ["", " ", "\ud800", "a\udfffb", "\0", "\u202e", "🏳️‍🌈", "猫" * 1000, "[CLS]"], ids=ascii
)
def test_strange_texts(vit: MultiModalEmbeddingPipeline, text: str) -> None:
    alone = rows(vit.forward({"text": text}))
    assert np.isfinite(alone).all()
    among = rows(vit.forward({"text": ["猫", text, "一个在逛公园的女孩"]}))
    np.testing.assert_allclose(among[1:2], alone, rtol=0, atol=2e-6)


@pytest.mark.parametrize("unit", ["猫", "a", " ", "é", "\U00020000"], ids=ascii)
def test_a_very_long_text(vit: MultiModalEmbeddingPipeline, unit: str) -> None:
    text = unit * (10_000_000 // len(unit.encode()))
    begun = time.monotonic()
    assert rows(vit.forward({"text": [text]})).shape == (1, 64)
    assert time.monotonic() - begun < 5


# What a call refuses


class Names:
    """Looks like a list, is none."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> str:
        return "猫"


WRONG_TEXTS: list[tuple[Any, str]] = [
    (5, "text: .*got int"),
    (1.5, "text: .*got float"),
    (True, "text: .*got bool"),
    (b"abc", "text: .*got bytes"),
    ({"a"}, "text: .*got set"),
    ({"a": 1}, "text: .*got dict"),
    (Names(), "text: .*got Names"),
    (np.array(["a"]), "text: .*got ndarray"),
    (frozenset("ab"), "text: .*got frozenset"),
    (["a", None], r"text\[1\]: .*got NoneType"),
    (["a", 5], r"text\[1\]: .*got int"),
    (["a", ["b"]], r"text\[1\]: .*got list"),
    ([["a"]], r"text\[0\]: .*got list"),
    (["a", "b", b"c"], r"text\[2\]: .*got bytes"),
]
WRONG_IMAGES: list[tuple[Any, str]] = [
    (5, "img: .*got int"),
    (1.5, "img: .*got float"),
    ({"a"}, "img: .*got set"),
    ({"a": 1}, "img: .*got dict"),
    (io.BytesIO(b"a file"), "img: .*got BytesIO"),
    ([None], r"img\[0\]: .*got NoneType"),
    ([Image.new("RGB", (2, 2)), 5], r"img\[1\]: .*got int"),
    ([[Image.new("RGB", (2, 2))]], r"img\[0\]: .*got list"),
    ([np.uint8(3)], r"img\[0\]: .*got uint8"),
]


@pytest.mark.parametrize(("value", "message"), WRONG_TEXTS, ids=lambda value: str(value)[:25])
@pytest.mark.parametrize("method", ["forward", "preprocess", "__call__"])
def test_wrong_texts(
    vit: MultiModalEmbeddingPipeline, method: str, value: Any, message: str
) -> None:
    with pytest.raises(cnclip.InputTypeError, match=message) as raised:
        getattr(vit, method)({"text": value})
    assert isinstance(raised.value, TypeError)


@pytest.mark.parametrize(("value", "message"), WRONG_IMAGES, ids=lambda value: str(value)[:25])
@pytest.mark.parametrize("method", ["forward", "preprocess", "__call__"])
def test_wrong_images(
    vit: MultiModalEmbeddingPipeline, method: str, value: Any, message: str
) -> None:
    with pytest.raises(cnclip.InputTypeError, match=message):
        getattr(vit, method)({"img": value})


@pytest.mark.parametrize("value", [None, 5, "猫", ["猫"], [("text", "猫")], b"", {"text"}])
def test_an_input_that_is_no_dict(vit: MultiModalEmbeddingPipeline, value: Any) -> None:
    with pytest.raises(cnclip.InputTypeError, match="expected a dict"):
        vit.forward(value)


@pytest.mark.parametrize("key", ["image", "texts", "Img", 5, None])
def test_unknown_keys(vit: MultiModalEmbeddingPipeline, key: Any) -> None:
    with pytest.raises(cnclip.InvalidInputError, match=f"got one with {key!r}"):
        vit.forward({key: "猫"})


def test_nothing_is_embedded_if_one_item_is_wrong(
    vit: MultiModalEmbeddingPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vit, "_embed_images", lambda *arguments: pytest.fail("embedded"))
    with pytest.raises(cnclip.InputTypeError, match=r"text\[1\]"):
        vit.forward({"img": Image.new("RGB", (2, 2)), "text": ["a", None]})


@pytest.mark.parametrize("batch_size", [0, -1, -(2**70)])
def test_batch_sizes_below_one(vit: MultiModalEmbeddingPipeline, batch_size: int) -> None:
    for given in ({"text": "猫"}, [{"text": "猫"}], {}):
        with pytest.raises(cnclip.InvalidInputError, match="batch_size: expected 1 or more"):
            vit(given, batch_size=batch_size)  # type: ignore[call-overload]


@pytest.mark.parametrize("batch_size", [True, 1.5, "8", [8]])
def test_batch_sizes_of_other_types(vit: MultiModalEmbeddingPipeline, batch_size: Any) -> None:
    with pytest.raises(cnclip.InputTypeError, match="batch_size: expected int, got"):
        vit.forward({"text": "猫"}, batch_size=batch_size)


def test_numpys_integers(archive: Path) -> None:
    number = np.int64(2)
    opened = pipeline(model=archive, device="cpu", num_threads=number)  # type: ignore[arg-type]
    assert opened.model.encoder.num_threads == 2
    answer = opened.forward({"text": ["猫"] * 3}, batch_size=number)  # type: ignore[arg-type]
    assert rows(answer).shape == (3, 64)


@pytest.mark.parametrize("batch_size", [2**31, 2**62, 2**63, 10**30])
def test_huge_batch_sizes(
    vit: MultiModalEmbeddingPipeline, photo: Image.Image, batch_size: int
) -> None:
    answer = vit.forward({"img": [photo] * 3, "text": ["猫"] * 3}, batch_size=batch_size)
    assert answer["img_embedding"].shape == answer["text_embedding"].shape == (3, 64)
    assert rows(vit.forward({"text": []}, batch_size=batch_size)).shape == (0, 64)


# Images


@pytest.mark.parametrize("mode", ODD_MODES)
def test_images_of_every_mode(
    vit: MultiModalEmbeddingPipeline, photo: Image.Image, mode: str
) -> None:
    try:
        image = image_of_mode(mode, photo)
        expected = pillow_tensor(image, 32)
    except ValueError as error:
        # Pillow cannot make or convert it: then we say so.
        with pytest.raises(cnclip.ImageError, match=r"img\[0\]: cannot be read as an image"):
            vit.preprocess({"img": Image.new(mode, (9, 9))})
        assert mode in ("LAB", "La"), error
        return
    assert image.mode == mode
    assert np.array_equal(vit.preprocess({"img": image})["img"][0], expected)
    assert np.isfinite(rows(vit.forward({"img": [photo, image]}))).all()


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_images_without_pixels(
    vit: MultiModalEmbeddingPipeline, size: tuple[int, int], mode: str
) -> None:
    with pytest.raises(cnclip.InvalidInputError, match=r"img\[1\]: an image without pixels"):
        vit.forward({"img": [Image.new("RGB", (3, 3)), Image.new(mode, size)]})


def test_a_image_over_several_blocks_of_memory(vit: MultiModalEmbeddingPipeline) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2300, 2000, 3), np.uint8)
    image = Image.fromarray(noise)
    expected = pillow_tensor(image, 32)
    assert np.array_equal(vit.preprocess({"img": image})["img"][0], expected)
    assert np.array_equal(vit.preprocess({"img": noise})["img"][0], expected)


def test_arrays_of_any_stride(vit: MultiModalEmbeddingPipeline) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (91, 70, 6), np.uint8)
    read_only = noise[..., :3].copy()
    read_only.flags.writeable = False
    views = {
        "every second channel": noise[..., ::2],
        "upside down": noise[::-1, ::-1, 2::-1],
        "transposed": noise[..., :3].transpose(1, 0, 2),
        "channels first": noise[..., :3].transpose(2, 0, 1).copy().transpose(1, 2, 0),
        "broadcast": np.broadcast_to(noise[:1, :, :3], (40, 70, 3)),
        "read-only": read_only,
        "one pixel": noise[:1, :1, :3],
    }
    for name, view in views.items():
        expected = pillow_tensor(Image.fromarray(np.ascontiguousarray(view)), 32)
        assert np.array_equal(vit.preprocess({"img": view})["img"][0], expected), name


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((4, 4, 3), np.int8), "int8"),
        (np.zeros((4, 4, 3), bool), "bool"),
        (np.zeros((4, 4, 4), np.uint8), r"\[4, 4, 4\]"),
        (np.zeros((4, 4), np.uint8), r"\[4, 4\]"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"\[2, 4, 4, 3\]"),
        (np.zeros((), np.uint8), r"\[\]"),
        (np.zeros((0, 4, 3), np.uint8), r"\[0, 4, 3\]"),
        (np.zeros((4, 0, 3), np.uint8), r"\[4, 0, 3\]"),
        (np.broadcast_to(np.zeros(3, np.uint8), (2**31, 1, 3)), "2147483648"),
        (np.array(["a"], object), "object"),
    ],
    ids=str,
)
def test_arrays_that_are_no_images(
    vit: MultiModalEmbeddingPipeline, array: Any, message: str
) -> None:
    # Behind so many that it is not in the first batch.
    images = [Image.new("RGB", (3, 3))] * 20 + [array]
    for method in (vit.forward, vit.preprocess):
        with pytest.raises(cnclip.InvalidInputError, match=rf"img\[20\]: .*{message}"):
            method({"img": images})


def test_a_damaged_image_is_named(
    vit: MultiModalEmbeddingPipeline, golden: Path, tmp_path: Path, photo: Image.Image
) -> None:
    damaged = tmp_path / "damaged.jpg"
    content = (golden / "cases" / "images" / "jpeg_q90.jpg").read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    images = [photo] * 9
    with pytest.raises(cnclip.ImageError, match=r"img\[9\]: .*damaged\.jpg.*truncated"):
        vit.forward({"img": [*images, damaged]})
    with pytest.raises(cnclip.ImageError, match=r"img\[9\]: .*truncated"):
        vit.preprocess({"img": [*images, damaged.read_bytes()]})
    with (
        Image.open(damaged) as image,
        pytest.raises(cnclip.ImageError, match=r"img\[9\]: .*truncated"),
    ):
        vit.forward({"img": [*images, image]})
    with pytest.raises(cnclip.ImageNotFoundError, match=r"img\[1\]: .*nowhere\.jpg") as raised:
        vit.forward({"img": [photo, tmp_path / "nowhere.jpg"]})
    assert isinstance(raised.value, FileNotFoundError)


def test_a_closed_image(vit: MultiModalEmbeddingPipeline, golden: Path) -> None:
    image = Image.open(golden / "cases" / "images" / "jpeg_q90.jpg")
    image.close()
    with pytest.raises(cnclip.ImageError, match=r"img\[0\]: cannot be read"):
        vit.forward({"img": image})


def test_a_image_whose_plugin_trips(vit: MultiModalEmbeddingPipeline) -> None:
    class Tripping(Image.Image):
        def load(self) -> None:  # type: ignore[override]
            raise IndexError("index out of range")

    image = Tripping()
    image._mode, image._size = "RGB", (4, 4)
    with pytest.raises(cnclip.ImageError, match=r"img\[0\]: .*index out of range"):
        vit.forward({"img": image})


def test_inputs_are_not_changed(vit: MultiModalEmbeddingPipeline, photo: Image.Image) -> None:
    array = np.asarray(photo).copy()
    before, images = array.copy(), [photo, array]
    given = {"img": images, "text": ["猫"]}
    vit.forward(given)
    assert np.array_equal(array, before)
    assert np.array_equal(np.asarray(photo), before)
    assert list(given) == ["img", "text"]
    assert images[0] is photo
    assert len(images) == 2


# Lists of inputs


def test_a_list_of_inputs(vit: MultiModalEmbeddingPipeline, photo: Image.Image) -> None:
    other = photo.transpose(Image.Transpose.ROTATE_90)
    inputs: list[Any] = [
        {"text": ["一", "二", "三"]},
        {"img": photo, "text": "猫"},
        {},
        {"img": [other, photo]},
        {"text": []},
        {"img": None, "text": None},
    ]
    for batch_size in (None, 1, 2, 100):
        answers = vit(inputs, batch_size=batch_size)
        assert len(answers) == len(inputs)
        for answer, given in zip(answers, inputs, strict=True):
            expected = vit(given)
            assert set(answer) == set(expected)
            for key, value in expected.items():
                if value is None:
                    assert answer[key] is None
                else:
                    assert answer[key].shape == value.shape
                    np.testing.assert_allclose(answer[key], value, rtol=0, atol=2e-6)
    assert vit([]) == []


def test_errors_in_a_list_of_inputs_name_the_input(
    vit: MultiModalEmbeddingPipeline, photo: Image.Image, tmp_path: Path
) -> None:
    with pytest.raises(cnclip.InputTypeError, match=r"^input\[1\]: text\[0\]: expected str"):
        vit([{"text": "猫"}, {"text": [5]}])
    with pytest.raises(cnclip.InvalidInputError, match=r"^input\[2\]: expected a dict with 'img'"):
        vit([{}, {}, {"image": photo}])
    with pytest.raises(cnclip.InputTypeError, match=r"^input\[0\]: expected a dict"):
        vit(["猫"])  # type: ignore[list-item]
    missing = tmp_path / "nowhere.jpg"
    inputs = [{"img": [photo] * 9}, {"text": "猫"}, {}, {"img": [photo, photo, missing]}]
    with pytest.raises(cnclip.ImageNotFoundError, match=r"^input\[3\]: img\[2\]: .*nowhere"):
        vit(inputs, batch_size=4)


# Options


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"task": "image-captioning"}, ValueError, "task: expected one of multi-modal-embedding"),
        ({"task": None}, ValueError, "task"),
        ({"model": None}, ValueError, "model: expected an archive"),
        ({"model": 5}, TypeError, "model: expected a name or path, got int"),
        ({"model": b"emoji-cn"}, TypeError, "model: .*got bytes"),
        ({"model": "nobody/nowhere"}, FileNotFoundError, "no model 'nobody/nowhere'"),
        ({"model": "a" * 5000}, FileNotFoundError, "no model"),
        ({"model": "~nobody-of-this-name/model"}, FileNotFoundError, "no model"),
        ({"model": "a\0b"}, FileNotFoundError, "no model"),
        ({"precision": "fp64"}, ValueError, "precision: .*got 'fp64'"),
        ({"precision": "fp16"}, cnclip.DeviceError, "precision fp16 needs a GPU, .*use fp32"),
        ({"precision": None}, ValueError, "precision"),
        ({"return_tensors": "tf"}, ValueError, "return_tensors: expected 'np' or 'pt'"),
        ({"return_tensors": None}, ValueError, "return_tensors"),
        ({"num_threads": 0}, ValueError, "num_threads: expected 1 to"),
        ({"num_threads": -4}, ValueError, "num_threads: expected 1 to"),
        ({"num_threads": 10_000}, ValueError, "num_threads: expected 1 to"),
        ({"num_threads": 2**80}, ValueError, "num_threads: expected 1 to"),
        ({"num_threads": "2"}, TypeError, "num_threads: expected int, got str"),
        ({"num_threads": 1.5}, TypeError, "num_threads: expected int, got float"),
        ({"num_threads": True}, TypeError, "num_threads: expected int, got bool"),
        ({"device": "tpu"}, ValueError, "device: expected 'cpu', 'gpu' or 'cuda:N', got 'tpu'"),
        ({"device": ""}, ValueError, "device"),
        ({"device": None}, ValueError, "device"),
        ({"device": 0}, ValueError, "device"),
        ({"device": "cuda:-1"}, ValueError, "device"),
        ({"device": "cuda:1000"}, ValueError, "device"),
        ({"device": "cpu:0"}, ValueError, "device"),
        ({"device": "CPU"}, ValueError, "device"),
    ],
    ids=str,
)
def test_wrong_options(
    archive: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(cnclip.CnclipError, match=message) as raised:
        pipeline(**{"model": archive, **options})
    assert isinstance(raised.value, error)


@pytest.mark.skipif(_core.cuda_count() > 0, reason="this machine has a GPU")
def test_without_a_gpu(archive: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="cnclip"):
        fallen_back = pipeline(model=archive)
    assert fallen_back.model.device == "cpu"
    assert len(caplog.records) == 1
    assert "torch finds 0 GPUs here, the CPU is taken" in caplog.text
    assert choose_device("gpu:1") == "cpu"
    for device in ("cuda", "cuda:0"):
        # The device is refused before a model is looked for.
        with pytest.raises(cnclip.DeviceError, match=f"no device '{device}': torch finds 0 GPUs"):
            pipeline(model="nowhere", device=device)


def test_devices_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnclip._libtorch.load_cuda", lambda: True)
    monkeypatch.setattr("cnclip.pipelines.builder._core", FakeCore)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    expected = {"gpu": "cuda:0", "gpu:1": "cuda:1", "cuda": "cuda:0", "cuda:1": "cuda:1"}
    assert {device: choose_device(device) for device in expected} == expected
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device("gpu") == "cuda:1"
    assert choose_device("cuda") == "cuda:0"
    assert choose_device("cpu") == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "first")
    assert choose_device("gpu") == "cuda:0"
    assert choose_device("gpu:2") == "cpu"
    with pytest.raises(cnclip.DeviceError, match="no device 'cuda:2': torch finds 2 GPUs"):
        choose_device("cuda:2")


class FakeCore:
    @staticmethod
    def cuda_count() -> int:
        return 2


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_num_threads(
    archive: Path, vit: MultiModalEmbeddingPipeline, texts: list[str], num_threads: int
) -> None:
    other = pipeline(model=archive, device="cpu", num_threads=num_threads)
    assert other.model.encoder.num_threads == num_threads
    np.testing.assert_allclose(
        rows(other.forward({"text": texts})),
        rows(vit.forward({"text": texts})),
        rtol=0,
        atol=2e-6,
    )


def test_num_threads_leave_torch_alone(archive: Path) -> None:
    import torch

    before = torch.get_num_threads()
    other = pipeline(model=archive, device="cpu", num_threads=before + 1)
    other.forward({"text": "猫"})
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("task", [Tasks.multi_modal_embedding, Tasks.image_text_retrieval])
def test_both_tasks(archive: Path, task: str) -> None:
    assert pipeline(task, archive, device="cpu").model.device == "cpu"
    assert pipeline(task=task, model=str(archive), device="cpu").model.info.embed_dim == 64


# Torch tensors


def test_tensors_share_the_memory_of_the_arrays(archive: Path, photo: Image.Image) -> None:
    import torch

    tensors = pipeline(model=archive, device="cpu", return_tensors="pt")
    arrays: list[Any] = []

    class Recording:
        def __init__(self, encoder: _core.Encoder) -> None:
            self.encoder = encoder

        def encode_texts(self, items: Any, batch_size: int) -> Any:
            arrays.append(self.encoder.encode_texts(items, batch_size))
            return arrays[-1]

    tensors.model.encoder = Recording(tensors.model.encoder)  # type: ignore[assignment]
    answer = tensors.forward({"text": ["猫", "狗"]})
    found = answer["text_embedding"]
    assert isinstance(found, torch.Tensor)
    assert found.dtype == torch.float32
    assert found.data_ptr() == arrays[0].ctypes.data
    assert answer["img_embedding"] is None
    batch = tensors.preprocess({"img": photo, "text": "猫"})
    assert batch["text"].dtype == torch.int64
    assert tuple(batch["img"].shape) == (1, 3, 32, 32)
    assert tensors.model.temperature.shape == ()
    assert tensors.model.temperature.dtype == torch.float32


def test_the_model_cards_example(
    vit_directory: Path, golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = golden / "cases" / "images" / "exif_rot.jpg"
    names: dict[str, Any] = {"MODEL": str(vit_directory), "IMAGE": str(image)}
    exec(compile(MODEL_CARD, "card", "exec"), names)
    assert "图文匹配概率:" in capsys.readouterr().out
    answer = pipeline(model=vit_directory, device="cpu").forward(
        {"img": image, "text": names["input_texts"]}
    )
    logits = answer["img_embedding"] @ answer["text_embedding"].T / np.float32(0.05181892)
    expected = np.exp(logits - logits.max())
    np.testing.assert_allclose(names["probs"], expected / expected.sum(), rtol=1e-4)


def test_the_shipped_model_by_its_name() -> None:
    shipped = pipeline(task=Tasks.multi_modal_embedding, model="emoji-cn", device="cpu")
    words = rows(shipped.forward({"text": ["猫", "小猫", "汽车"]}))
    assert words[0] @ words[1] > words[0] @ words[2]


# Lists that change under our hands


def test_a_list_that_another_thread_changes(vit: MultiModalEmbeddingPipeline) -> None:
    images: list[Any] = [Image.new("RGB", (8, 8), (i, i, i)) for i in range(60)]
    words: list[Any] = [f"第{i}句" for i in range(300)]
    for index in range(len(words)):
        words[index] = f"第{index}句话"  # nothing else holds a reference to it
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            for some in (images, words):
                taken = some.pop()
                some.insert(0, taken)
                some[5:9] = some[5:9][::-1]
            words[3] = f"{words[3]}。"[:20]
            time.sleep(0)  # lets go of the interpreter's lock

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(10):
            answer = vit.forward({"img": images, "text": words})
            for found in answer.values():
                np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    finally:
        stop.set()
        thread.join()


# The house


def test_the_names_of_modelscope() -> None:
    from cnclip.preprocessors.image import load_image
    from cnclip.preprocessors.multi_modal import CLIPPreprocessor

    assert Tasks.multi_modal_embedding == "multi-modal-embedding"
    assert Tasks.image_text_retrieval == "image-text-retrieval"
    assert cnclip.pipeline is pipeline
    assert cnclip.load_image is load_image
    assert callable(CLIPPreprocessor.tokenize)
    for name in cnclip.__all__:
        assert hasattr(cnclip, name)


def test_every_error_is_ours_and_resembles_a_built_in() -> None:
    from cnclip import errors

    values = [value for value in vars(errors).values() if inspect.isclass(value)]
    classes = [value for value in values if issubclass(value, BaseException)]
    assert len(classes) > 10
    for found in classes:
        assert issubclass(found, cnclip.CnclipError)
        if found is not cnclip.CnclipError:
            assert issubclass(
                found, ValueError | TypeError | OSError | RuntimeError | ImportError
            ), found


def test_the_preprocessor_alone(
    archive: Path, vit: MultiModalEmbeddingPipeline, photo: Image.Image
) -> None:
    from cnclip.preprocessors.multi_modal import CLIPPreprocessor

    alone = CLIPPreprocessor(archive)
    given = {"img": [photo], "text": ["猫", "狗"]}
    for key, value in alone(given).items():
        assert np.array_equal(value, vit.preprocess(given)[key])
    assert alone.tokenize("猫", context_length=7).shape == (1, 7)
    ids, lengths = alone.tokenize(["猫", "猫" * 100], return_lengths=True)
    assert ids.shape == (2, 52)
    assert lengths.tolist() == [3, 102]


EMPTY = np.zeros((0, 1, 3), np.uint8)
OBLONG = np.zeros((1, 3, 32, 16), np.float32)
BAD_CALLS: list[tuple[str, Callable[[Any], Any]]] = [
    ("tokenizer: str", lambda p: p.preprocessor.tokenizer.encode("猫")),
    ("tokenizer: number", lambda p: p.preprocessor.tokenizer.encode(5)),
    ("tokenizer: length 1", lambda p: p.preprocessor.tokenizer.encode(["猫"], 1)),
    ("tokenizer: length", lambda p: p.preprocessor.tokenizer.encode(["猫"], 2**31)),
    ("tokenizer: None", lambda p: p.preprocessor.tokenizer.encode([None])),
    ("tokenizer: new", lambda p: type(p.preprocessor.tokenizer)("text")),
    ("processor: str", lambda p: p.preprocessor.image_processor.process("path")),
    ("processor: None", lambda p: p.preprocessor.image_processor.process([None])),
    ("processor: gray", lambda p: p.preprocessor.image_processor.process([Image.new("L", (2, 2))])),
    ("processor: empty", lambda p: p.preprocessor.image_processor.process([EMPTY])),
    ("processor: floats", lambda p: p.preprocessor.image_processor.process([np.zeros((1, 1, 3))])),
    ("processor: 0", lambda p: _core.ImageProcessor(0)),
    ("processor: mean", lambda p: _core.ImageProcessor(8, (1.0, 2.0))),
    ("processor: std", lambda p: _core.ImageProcessor(8, (0.0, 0.0, 0.0), (1.0, 0.0, 1.0))),
    ("processor: NaN", lambda p: _core.ImageProcessor(8, (float("nan"), 0.0, 0.0))),
    ("processor: words", lambda p: _core.ImageProcessor(8, ("a", "b", "c"))),
    ("processor: out", lambda p: p.preprocessor.image_processor.process([], out=[])),
    ("encoder: batch", lambda p: p.model.encoder.encode_texts(["猫"], -1)),
    ("encoder: list", lambda p: p.model.encoder.encode_pixels([])),
    ("encoder: doubles", lambda p: p.model.encoder.encode_pixels(np.zeros((1, 3, 32, 32)))),
    ("encoder: oblong", lambda p: p.model.encoder.encode_pixels(OBLONG)),
    ("encoder: one", lambda p: p.model.encoder.encode_pixels(OBLONG[0])),
    ("encoder: None", lambda p: p.model.encoder.encode_texts([None], 1)),
    ("encoder: new", lambda p: type(p.model.encoder)("path", None, 1, 2)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "call"), BAD_CALLS, ids=[name for name, _ in BAD_CALLS])
def test_the_core_refuses_what_it_cannot_take(
    vit: MultiModalEmbeddingPipeline, name: str, call: Callable[[Any], Any]
) -> None:
    with pytest.raises((TypeError, ValueError)):
        call(vit)


def test_encoder_arguments_out_of_range(archive: Path, vit: MultiModalEmbeddingPipeline) -> None:
    make = type(vit.model.encoder)
    tokenizer = vit.preprocessor.tokenizer
    for width, length, threads in [(0, 52, 0), (64, 1, 0), (64, 52, -1), (2**40, 52, 0)]:
        with pytest.raises(cnclip.InvalidInputError):
            make(archive, tokenizer, width, length, num_threads=threads)
    with pytest.raises(cnclip.InvalidInputError, match="expected fp32, bf16.* got int4"):
        make(archive, tokenizer, 64, 52, precision="int4")
    with pytest.raises(cnclip.DeviceError):
        make(archive, tokenizer, 64, 52, device="nonsense")
    wrong_width = make(archive, tokenizer, 65, 52)
    with pytest.raises(cnclip.ModelRunError, match=r"another shape or type than float32 \[1, 65\]"):
        wrong_width.encode_texts(["猫"], 1)
