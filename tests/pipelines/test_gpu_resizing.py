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

from cnclip import _core, bulk, cli, errors
from cnclip.modelscope import pipelines as modelscope
from cnclip.pipelines import MultiModalEmbeddingPipeline, pipeline
from cnclip.pipelines.model import resize_on_gpu
from cnclip.serve import Batcher
from cnclip.utils.constant import Tasks
from tests.support.gpu import use_as_on_a_gpu


class StandIn:
    """Resizes as an encoder does, `memory_of` images; then raises `failure`."""

    failure: Exception = MemoryError("img[0]: out of memory")

    def __init__(self, processor: _core.ImageProcessor, memory_of: int = 1000) -> None:
        self.processor = processor
        self.memory_of = memory_of
        self.modes: list[str] = []

    def resize(self, images: list[Any], out: Any = None) -> Any:
        self.modes += [getattr(image, "mode", "array") for image in images]
        if len(self.modes) > self.memory_of:
            raise self.failure
        return self.processor.resize(images, out)


@pytest.fixture
def opened(archive: Path, monkeypatch: pytest.MonkeyPatch) -> MultiModalEmbeddingPipeline:
    use_as_on_a_gpu(monkeypatch)
    return pipeline(model=archive, device="cpu", num_threads=1)


def resize_by(opened: MultiModalEmbeddingPipeline, memory_of: int = 1000) -> StandIn:
    encoder: Any = StandIn(opened.preprocessor.image_processor, memory_of)
    opened.preprocessor.resize_by(resize_on_gpu(encoder, "cuda:3"))
    return encoder  # type: ignore[no-any-return]


def same(found: Any, expected: Any) -> None:
    """Equal but for rounding, which depends on the batch where torch computes."""
    np.testing.assert_allclose(found, expected, atol=2e-6, rtol=0)


def test_all_images_are_resized_by_the_encoder(
    opened: MultiModalEmbeddingPipeline, photo: Image.Image
) -> None:
    content = io.BytesIO()
    photo.save(content, "PNG")
    images = [photo, np.asarray(photo), content.getvalue(), photo.convert("L")]
    expected = opened.forward({"img": images})["img_embedding"]
    encoder = resize_by(opened)
    same(opened.forward({"img": images})["img_embedding"], expected)
    assert encoder.modes == ["RGB", "array", "RGB", "RGB"]
    same(opened.forward({"img": iter(images)})["img_embedding"], expected)
    with Batcher(opened) as batcher:
        answer = batcher.submit([{"img": image} for image in images]).result()
    same(answer.vectors, expected)
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
        r"^img\[1\]: no memory on cuda:3 or on this machine to resize an image: end other "
        "programs that use the memory, or open the pipeline with resize='cpu'$"
    )
    with pytest.raises(errors.OutOfMemoryError, match=message):
        opened.forward({"img": kind([photo, photo, photo])})


@pytest.mark.parametrize(
    "failure",
    [errors.ModelRunError("the GPU is lost"), errors.ForkedProcessError("a child"), MemoryError()],
    ids=lambda failure: type(failure).__name__,
)
def test_a_gpu_that_fails_is_not_the_fault_of_an_image(
    opened: MultiModalEmbeddingPipeline, photo: Image.Image, tmp_path: Path, failure: Exception
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        photo.rotate(number).save(photos / f"{number}.png")
    resize_by(opened, memory_of=1).failure = failure
    expected = errors.OutOfMemoryError if isinstance(failure, MemoryError) else type(failure)
    with pytest.raises(expected):
        bulk.embed(photos, opened, tmp_path / "out")
    resize_by(opened)
    report = bulk.embed(photos, opened, tmp_path / "out")
    assert (report.rows, report.failed) == (3, 0)


@pytest.mark.parametrize("command", ["embed", "index", "serve"])
def test_the_command_refuses_the_cpu(
    command: str, tmp_path: Path, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", archive, "--device", "cpu", "--resize", "gpu"]
    if command == "serve":
        pytest.importorskip("fastapi")
    else:
        arguments += [tmp_path, "-o", tmp_path / "out"]
    status = cli.main([command, *map(str, arguments)])
    message = "resize='gpu': the model is on the CPU; leave it out, or choose a GPU"
    assert (status, capsys.readouterr().err) == (2, f"cnclip {command}: {message}\n")
    assert not (tmp_path / "out").exists()


def test_modelscope_programs_pass_the_options_on(archive: Path) -> None:
    with pytest.raises(errors.DeviceError, match="^resize='gpu': the model is on the CPU"):
        modelscope.pipeline(Tasks.multi_modal_embedding, archive, device="cpu", resize="gpu")
    opened = modelscope.pipeline(Tasks.multi_modal_embedding, archive, device="cpu", decode="fast")
    assert opened.model.core.preprocessor.image_options.decode == "fast"
