"""resize='gpu' without a GPU: which images the encoder resizes, and what is refused.

`tests/engine/test_resize_on_host.py` runs the code that resizes; `tests/gpu` runs it on a GPU.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnclip import _core, cli, errors
from cnclip.pipelines import MultiModalEmbeddingPipeline, pipeline
from cnclip.pipelines.model import resize_on_gpu
from cnclip.serve import Batcher
from tests.support.gpu import use_as_on_a_gpu


class StandIn:
    """Resizes as an encoder does; `memory_of` images."""

    def __init__(self, processor: _core.ImageProcessor, memory_of: int = 1000) -> None:
        self.processor = processor
        self.memory_of = memory_of
        self.modes: list[str] = []

    def resize(self, images: list[Any], out: Any = None) -> Any:
        self.modes += [getattr(image, "mode", "array") for image in images]
        if len(self.modes) > self.memory_of:
            raise MemoryError("img[0]: out of memory")
        return self.processor.resize(images, out)


@pytest.fixture
def opened(archive: Path, monkeypatch: pytest.MonkeyPatch) -> MultiModalEmbeddingPipeline:
    use_as_on_a_gpu(monkeypatch)
    return pipeline(model=archive, device="cpu", num_threads=1)


def resize_by(opened: MultiModalEmbeddingPipeline, memory_of: int = 1000) -> StandIn:
    encoder: Any = StandIn(opened.preprocessor.image_processor, memory_of)
    opened.preprocessor.resize_by(resize_on_gpu(encoder, "cuda:3"))
    return encoder  # type: ignore[no-any-return]


def test_all_images_are_resized_by_the_encoder(
    opened: MultiModalEmbeddingPipeline, photo: Image.Image
) -> None:
    content = io.BytesIO()
    photo.save(content, "PNG")
    images = [photo, np.asarray(photo), content.getvalue(), photo.convert("L")]
    expected = opened.forward({"img": images})["img_embedding"]
    encoder = resize_by(opened)
    assert np.array_equal(opened.forward({"img": images})["img_embedding"], expected)
    assert encoder.modes == ["RGB", "array", "RGB", "RGB"]
    assert np.array_equal(opened.forward({"img": iter(images)})["img_embedding"], expected)
    with Batcher(opened) as batcher:
        answer = batcher.submit([{"img": image} for image in images]).result()
    assert np.array_equal(answer.vectors, expected)
    assert len(encoder.modes) == 12


def test_tensors_for_the_caller_are_made_on_the_cpu(
    opened: MultiModalEmbeddingPipeline, photo: Image.Image
) -> None:
    encoder = resize_by(opened)
    assert opened.preprocess({"img": photo})["img"].dtype == np.float32
    assert encoder.modes == []


@pytest.mark.parametrize("kind", [list, iter])
def test_memory_that_ends_names_the_image(
    opened: MultiModalEmbeddingPipeline, photo: Image.Image, kind: Callable[..., Any]
) -> None:
    resize_by(opened, memory_of=1)
    message = (
        r"^img\[1\]: no memory on cuda:3 to resize an image: end other programs that use the "
        "memory, or open the pipeline with resize='cpu'$"
    )
    with pytest.raises(errors.OutOfMemoryError, match=message):
        opened.forward({"img": kind([photo, photo, photo])})


def test_the_command_refuses_the_cpu(
    tmp_path: Path, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["embed", tmp_path, "-o", tmp_path / "out", "--model", archive, "--device", "cpu"]
    status = cli.main([*map(str, command), "--resize", "gpu"])
    message = "resize='gpu': the model is on the CPU; leave it out, or choose a GPU"
    assert (status, capsys.readouterr().err) == (2, f"cnclip embed: {message}\n")
    assert not (tmp_path / "out").exists()
