"""The pipeline: accepted inputs, refused inputs, results."""

from __future__ import annotations

import inspect
import io
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cnclip
from cnclip import _core, errors
from cnclip.outputs import OutputKeys
from cnclip.pipelines import MultiModalEmbeddingPipeline, pipeline
from cnclip.utils.constant import Tasks
from tests.support.answers import rows

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


# Results of a call


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


def test_an_unknown_key_is_refused(vit: MultiModalEmbeddingPipeline) -> None:
    with pytest.raises(errors.InvalidInputError, match="got one with 'mode'"):
        vit.forward({"text": "猫", "mode": "inference"})


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


# Refused inputs


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
    (np.array([1]), "text.*got "),
    (frozenset("a"), "text: .*got frozenset"),
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
    with pytest.raises(errors.InputTypeError, match=message) as raised:
        getattr(vit, method)({"text": value})
    assert isinstance(raised.value, TypeError)


@pytest.mark.parametrize(("value", "message"), WRONG_IMAGES, ids=lambda value: str(value)[:25])
@pytest.mark.parametrize("method", ["forward", "preprocess", "__call__"])
def test_wrong_images(
    vit: MultiModalEmbeddingPipeline, method: str, value: Any, message: str
) -> None:
    with pytest.raises(errors.InputTypeError, match=message):
        getattr(vit, method)({"img": value})


@pytest.mark.parametrize("value", [None, 5, "猫", ["猫"], [("text", "猫")], b"", {"text"}])
def test_an_input_that_is_no_dict(vit: MultiModalEmbeddingPipeline, value: Any) -> None:
    with pytest.raises(errors.InputTypeError, match="expected a dict"):
        vit.forward(value)


@pytest.mark.parametrize("key", ["image", "texts", "Img", 5, None])
def test_unknown_keys(vit: MultiModalEmbeddingPipeline, key: Any) -> None:
    with pytest.raises(errors.InvalidInputError, match=f"got one with {key!r}"):
        vit.forward({key: "猫"})


def test_nothing_is_embedded_if_one_item_is_wrong(
    vit: MultiModalEmbeddingPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vit, "_embed_images", lambda *arguments: pytest.fail("embedded"))
    with pytest.raises(errors.InputTypeError, match=r"text\[1\]"):
        vit.forward({"img": Image.new("RGB", (2, 2)), "text": ["a", None]})


@pytest.mark.parametrize("batch_size", [0, -1, -(2**70)])
def test_batch_sizes_below_one(vit: MultiModalEmbeddingPipeline, batch_size: int) -> None:
    for given in ({"text": "猫"}, [{"text": "猫"}], {}):
        with pytest.raises(errors.InvalidInputError, match="batch_size: expected 1 or more"):
            vit(given, batch_size=batch_size)  # type: ignore[call-overload]


@pytest.mark.parametrize("batch_size", [True, 1.5, "8", [8]])
def test_batch_sizes_of_other_types(vit: MultiModalEmbeddingPipeline, batch_size: Any) -> None:
    with pytest.raises(errors.InputTypeError, match="batch_size: expected int, got"):
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
    with pytest.raises(errors.InputTypeError, match=r"^input\[1\]: text\[0\]: expected str"):
        vit([{"text": "猫"}, {"text": [5]}])
    with pytest.raises(errors.InvalidInputError, match=r"^input\[2\]: expected a dict with 'img'"):
        vit([{}, {}, {"image": photo}])
    with pytest.raises(errors.InputTypeError, match=r"^input\[0\]: expected a dict"):
        vit(["猫"])  # type: ignore[list-item]
    missing = tmp_path / "nowhere.jpg"
    inputs = [{"img": [photo] * 9}, {"text": "猫"}, {}, {"img": [photo, photo, missing]}]
    with pytest.raises(errors.ImageNotFoundError, match=r"^input\[3\]: img\[2\]: .*nowhere"):
        vit(inputs, batch_size=4)


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


def test_the_bundled_model_by_its_name() -> None:
    bundled = pipeline(task=Tasks.multi_modal_embedding, model="emoji-cn", device="cpu")
    words = rows(bundled.forward({"text": ["猫", "小猫", "汽车"]}))
    assert words[0] @ words[1] > words[0] @ words[2]


# Lists that change during the call


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
            time.sleep(0)  # releases the interpreter's lock

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


# Names and errors


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
                found, ValueError | TypeError | OSError | RuntimeError | ImportError | MemoryError
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
