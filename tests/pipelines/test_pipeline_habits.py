"""Values that users pass as lists, keywords of ModelScope, and what a prompt displays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnclip import errors
from cnclip.pipelines import MultiModalEmbeddingPipeline, pipeline

TEXTS = ["猫", "红色的花", "狗"]
IMAGES = np.random.default_rng(1).integers(0, 255, (3, 20, 24, 3), dtype=np.uint8)


def arrays_of_texts() -> list[Any]:
    texts = [np.array(TEXTS), np.array(TEXTS, object), np.array(TEXTS)[::-1][::-1]]
    if hasattr(np.dtypes, "StringDType"):
        texts.append(np.array(TEXTS, np.dtypes.StringDType()))
    return texts


@pytest.mark.parametrize("number", range(len(arrays_of_texts())))
def test_arrays_of_texts(vit: MultiModalEmbeddingPipeline, number: int) -> None:
    expected = vit.forward({"text": TEXTS})["text_embedding"]
    texts = arrays_of_texts()[number]
    assert np.array_equal(vit.forward({"text": texts})["text_embedding"], expected)
    assert np.array_equal(vit([{"text": texts}])[0]["text_embedding"], expected)
    one = vit.forward({"text": np.array(TEXTS[0])})["text_embedding"]
    assert np.array_equal(one, vit.forward({"text": TEXTS[0]})["text_embedding"])


def test_arrow_arrays(vit: MultiModalEmbeddingPipeline, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    expected = vit.forward({"text": TEXTS})["text_embedding"]
    for texts in (arrow.array(TEXTS), arrow.chunked_array([TEXTS[:1], TEXTS[1:]])):
        assert np.array_equal(vit.forward({"text": texts})["text_embedding"], expected)
    Image.fromarray(IMAGES[0]).save(tmp_path / "one.png")
    content = (tmp_path / "one.png").read_bytes()
    found = vit.forward({"img": arrow.array([content, content])})["img_embedding"]
    assert np.array_equal(found, vit.forward({"img": [content, content]})["img_embedding"])
    with pytest.raises(errors.InputTypeError, match=r"^text\[1\]: expected str, got NoneType"):
        vit.forward({"text": arrow.array(["猫", None])})


def test_arrays_of_images(vit: MultiModalEmbeddingPipeline, tmp_path: Path) -> None:
    expected = vit.forward({"img": list(IMAGES)})["img_embedding"]
    assert np.array_equal(vit.forward({"img": IMAGES})["img_embedding"], expected)
    assert vit.forward({"img": IMAGES[:0]})["img_embedding"].shape == (0, expected.shape[1])
    paths = []
    for number, pixels in enumerate(IMAGES):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(pixels).save(paths[-1])
    for names in (np.array(paths), np.array([Path(path) for path in paths], object)):
        assert np.array_equal(vit.forward({"img": names})["img_embedding"], expected)
    with pytest.raises(errors.InputTypeError, match=r"^img: expected one dimension of items"):
        vit.forward({"img": np.array([paths])})
    for wrong in (IMAGES[None], IMAGES.astype(np.float32)):
        with pytest.raises(errors.CnclipError, match="img"):
            vit.forward({"img": wrong})


@pytest.mark.parametrize("method", ["forward", "preprocess", "__call__"])
def test_one_unknown_key_among_known_ones(vit: MultiModalEmbeddingPipeline, method: str) -> None:
    with pytest.raises(errors.InvalidInputError, match="got one with 'txt'"):
        getattr(vit, method)({"img": IMAGES[0], "txt": "猫"})


def test_keywords_of_modelscope(archive: Path) -> None:
    opened = pipeline(
        "multi-modal-embedding",
        archive,
        device="cpu",
        framework="pytorch",
        preprocessor=None,
        auto_collate=False,
        trust_remote_code=True,
    )
    assert opened.forward({"text": "猫"})["text_embedding"].shape[0] == 1
    with pytest.raises(errors.InvalidInputError, match="^framework: expected None or 'pytorch'"):
        pipeline(model=archive, framework="tensorflow")
    with pytest.raises(TypeError, match="no keyword num_thread. Did you mean num_threads?") as got:
        pipeline(model=archive, num_thread=2)
    for taken in ("precision", "return_tensors", "model_revision", "auto_collate"):
        assert taken in str(got.value)


def test_what_a_prompt_displays(vit: MultiModalEmbeddingPipeline) -> None:
    shown = repr(vit)
    assert "64 columns" in shown and "fp32 on cpu" in shown and "52 ids" in shown
    assert len(shown) < 300 and len(repr(vit.model)) < 1000
