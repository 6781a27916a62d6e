"""A pipeline on a GPU as programs use it: devices, threads, memory that ends, Ctrl-C."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnclip import errors
from cnclip.engine import cuda_count
from cnclip.pipelines import MultiModalEmbeddingPipeline, pipeline

Run = Callable[..., subprocess.CompletedProcess[str]]
LACKING = 97  # no machine has so many


@pytest.fixture(scope="module")
def on_gpu(large_archive: Path) -> MultiModalEmbeddingPipeline:
    return pipeline(model=large_archive, device="cuda:0", precision="bf16")


@pytest.fixture(params=[("large", "bf16"), ("large", "fp16"), ("large", "fp32"), ("small", "fp32")])
def any_model(
    request: pytest.FixtureRequest, large_archive: Path, archive: Path
) -> tuple[Path, str]:
    """An archive and a precision."""
    name, precision = request.param
    return (large_archive if name == "large" else archive), precision


# --- Devices --------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["gpu", "gpu:0", "cuda", "cuda:0"])
def test_names_of_the_first_gpu(
    archive: Path, vit: MultiModalEmbeddingPipeline, device: str
) -> None:
    opened = pipeline(model=archive, device=device)
    assert opened.model.device == "cuda:0"
    found, expected = (p.forward({"text": "猫"})["text_embedding"] for p in (opened, vit))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_a_gpu_is_chosen_by_default(archive: Path) -> None:
    assert pipeline(model=archive).model.device == "cuda:0"


def test_a_gpu_that_is_lacking(archive: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = f"torch finds {cuda_count()} GPUs"
    with pytest.raises(errors.DeviceError, match=f"no device 'cuda:{LACKING}': {found} here"):
        pipeline(model=archive, device=f"cuda:{LACKING}")
    with caplog.at_level(logging.WARNING, logger="cnclip"):
        fallen_back = pipeline(model=archive, device=f"gpu:{LACKING}")
    assert fallen_back.model.device == "cpu"
    assert f"device 'gpu:{LACKING}': {found} here, using the CPU" in caplog.text


def test_a_process_without_visible_gpus(run_python: Run, archive: Path) -> None:
    code = (
        "import sys\n"
        "from cnclip.engine import cuda_count\n"
        "from cnclip.errors import DeviceError\n"
        "from cnclip.pipelines import pipeline\n"
        "opened = pipeline(model=sys.argv[1])\n"
        "print(cuda_count(), opened.model.device, *opened.forward({'text': '猫'})"
        "['text_embedding'].shape)\n"
        "try:\n"
        "    pipeline(model=sys.argv[1], device='cuda:0')\n"
        "except DeviceError as error:\n"
        "    print(error)\n"
    )
    done = run_python(code, archive, CUDA_VISIBLE_DEVICES="")
    first, second = done.stdout.splitlines()
    assert first == "0 cpu 1 64"
    assert second == "no device 'cuda:0': torch finds 0 GPUs here"


def test_int8_is_refused(archive: Path) -> None:
    with pytest.raises(errors.DeviceError, match="int8"):
        pipeline(model=archive, device="cuda:0", precision="int8")


def test_torch_tensors(archive: Path) -> None:
    import torch

    opened = pipeline(model=archive, device="cuda:0", return_tensors="pt")
    images = [Image.new("RGB", (40, 30), (200, number, 9)) for number in range(3)]
    found = opened.forward({"img": images, "text": ["猫", "狗"]})
    expected = pipeline(model=archive, device="cuda:0").forward(
        {"img": images, "text": ["猫", "狗"]}
    )
    for key, rows in found.items():
        assert isinstance(rows, torch.Tensor)
        assert (rows.device.type, rows.dtype) == ("cpu", torch.float32)
        assert np.array_equal(rows.numpy(), expected[key])


# --- Several pipelines and threads ----------------------------------------------------------------


def test_several_pipelines_on_one_gpu(
    large_archive: Path, archive: Path, different_images: list[Image.Image]
) -> None:
    chosen = [
        (large_archive, "bf16"),
        (archive, "fp32"),
        (large_archive, "fp16"),
        (archive, "fp16"),
    ]
    images, texts = different_images[:20], ["猫", "红色的花", "一只狗在草地上"]

    def embed(opened: MultiModalEmbeddingPipeline) -> dict[str, Any]:
        return opened.forward({"img": images, "text": texts})

    alone = []
    for path, precision in chosen:  # one is open at a time
        alone.append(embed(pipeline(model=path, device="cuda:0", precision=precision)))
    opened = [pipeline(model=path, device="cuda:0", precision=p) for path, p in chosen]
    with ThreadPoolExecutor(len(opened)) as pool:
        for _ in range(3):
            for found, expected in zip(pool.map(embed, opened), alone, strict=True):
                for key, rows in found.items():
                    assert np.array_equal(rows, expected[key])


def test_threads_on_one_pipeline(
    any_model: tuple[Path, str], different_images: list[Image.Image], different_texts: list[str]
) -> None:
    opened = pipeline(model=any_model[0], device="cuda:0", precision=any_model[1])
    threads = 8
    start = threading.Barrier(threads)

    def embed(number: int) -> dict[str, Any]:
        images = different_images[number * 25 : number * 25 + 25]
        texts = different_texts[number * 37 : number * 37 + 37]
        return opened.forward({"img": images, "text": texts}, batch_size=number + 1)

    def embed_at_once(number: int) -> list[dict[str, Any]]:
        start.wait()
        return [embed(number) for _ in range(3)]

    alone = [embed(number) for number in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        for number, answers in enumerate(pool.map(embed_at_once, range(threads))):
            for found in answers:
                for key, rows in found.items():
                    assert np.array_equal(rows, alone[number][key]), (number, key)


def test_threads_that_torch_uses_too(
    on_gpu: MultiModalEmbeddingPipeline, different_images: list[Image.Image]
) -> None:
    """A program's own work on the GPU, on other streams, does not change the rows."""
    import torch

    expected = on_gpu.forward({"img": different_images[:64]}, batch_size=16)["img_embedding"]
    stop = threading.Event()

    def multiply() -> float:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            matrix = torch.randn(2048, 2048, device="cuda")
            while not stop.is_set():
                matrix = torch.nn.functional.normalize(matrix @ matrix)
            stream.synchronize()
            return float(matrix.norm())

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(multiply)
        try:
            for _ in range(5):
                found = on_gpu.forward({"img": different_images[:64]}, batch_size=16)
                assert np.array_equal(found["img_embedding"], expected)
        finally:
            stop.set()
        assert running.result() > 0


# --- Memory ---------------------------------------------------------------------------------------

OUT_OF_MEMORY = """
import sys
import numpy as np, torch
from cnclip.errors import CnclipError
from cnclip.pipelines import pipeline

opened = pipeline(model=sys.argv[1], device="cuda:0", precision=sys.argv[2])
images = np.random.default_rng(0).integers(0, 256, (256, 64, 64, 3), np.uint8)
texts = ["一二三四五六七八九十" * 5] * 4096
expected = opened.forward({"img": images[:64], "text": texts[:64]}, batch_size=64)
for warm in sys.argv[3:]:
    opened.forward({"img": images, "text": texts}, batch_size=256)
torch.cuda.empty_cache()
free = torch.cuda.mem_get_info()[0]
taken = [torch.empty(free - (24 << 20), dtype=torch.uint8, device="cuda")]
try:
    while True:
        taken.append(torch.empty(8 << 20, dtype=torch.uint8, device="cuda"))
except torch.OutOfMemoryError:
    del taken[-1:]
for key, items, noun in (("img", images, "256 images"), ("text", texts, "4096 texts")):
    try:
        opened.forward({key: items}, batch_size=256)
    except MemoryError as error:
        assert isinstance(error, CnclipError), type(error)
        print(error)
    else:
        print("no error for", noun)
taken.clear()
torch.cuda.empty_cache()
for _ in range(2):
    found = opened.forward({"img": images[:64], "text": texts[:64]}, batch_size=64)
    for name, rows in found.items():
        np.testing.assert_array_equal(rows, expected[name])
print("recovered")
"""


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_memory_that_ends(run_python: Run, large_archive: Path, precision: str) -> None:
    """The error names the batch, and the pipeline works when memory is free again."""
    done = run_python(OUT_OF_MEMORY, large_archive, precision)
    print(done.stdout)
    lines = done.stdout.splitlines()
    advice = "choose a smaller batch_size, or end other programs that use the memory"
    assert lines[0] == f"no memory on cuda:0 for 256 images at once: {advice}"
    assert lines[-1] == "recovered"


# --- Ctrl-C ---------------------------------------------------------------------------------------

ENDLESS = """
import itertools, sys
import numpy as np
from cnclip.pipelines import pipeline

opened = pipeline(model=sys.argv[1], device="cuda:0", precision="bf16")
images = np.random.default_rng(0).integers(0, 256, (64, 256, 256, 3), np.uint8)

def draw():
    for number in itertools.count():
        if number == 3000:
            print("running", flush=True)
        yield images[number % 64]

texts = ["一二三四五六七八九十" * 4] * 4_000_000
if sys.argv[2] == "img":
    opened.forward({"img": draw()}, batch_size=256)
else:
    opened.forward({"text": texts[:8192]})
    print("running", flush=True)
    opened.forward({"text": texts})
"""


@pytest.mark.parametrize("key", ["img", "text"])
def test_control_c(large_archive: Path, key: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(large_archive), key],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        begin = time.monotonic()
        _, written = process.communicate(timeout=20)
        print(f"ended after {time.monotonic() - begin:.2f} s")
        assert time.monotonic() - begin < 5
        assert process.returncode == -signal.SIGINT
        assert written.strip().endswith("KeyboardInterrupt")
    finally:
        process.kill()
