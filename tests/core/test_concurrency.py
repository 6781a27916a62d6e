"""Threads, signals and processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cnclip import load_image
from cnclip.pipelines import MultiModalEmbeddingPipeline, pipeline

Run = Callable[..., subprocess.CompletedProcess[str]]

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def test_eight_threads_give_the_answers_of_one(
    vit: MultiModalEmbeddingPipeline, texts: list[str], image_paths: list[Path]
) -> None:
    images = [load_image(path) for path in image_paths]
    expected = vit.forward({"text": texts, "img": images})

    def embed(seed: int) -> float:
        random = np.random.default_rng(seed)
        worst = 0.0
        for _ in range(6):
            rows = random.permutation(len(texts))[: random.integers(1, len(texts))]
            columns = random.permutation(len(images))[: random.integers(1, len(images))]
            answer = vit.forward(
                {"text": [texts[i] for i in rows], "img": [images[i] for i in columns]},
                batch_size=int(random.integers(1, 40)),
            )
            differences = (
                answer["text_embedding"] - expected["text_embedding"][rows],
                answer["img_embedding"] - expected["img_embedding"][columns],
            )
            worst = max(worst, *(float(np.abs(part).max()) for part in differences))
        return worst

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(embed, range(8))) < 2e-6


def test_a_list_may_change_while_it_is_embedded(vit: MultiModalEmbeddingPipeline) -> None:
    expected = vit.forward({"text": "猫"})["text_embedding"]
    encoder = vit.model.encoder
    with ThreadPoolExecutor(1) as pool:
        for _ in range(20):
            shrinking = [f"猫{' ' * (i % 3)}" for i in range(400)]
            future = pool.submit(encoder.encode_texts, shrinking, 16)
            while shrinking:
                shrinking.pop()
            rows = future.result()
            assert np.abs(rows - expected).max() < 2e-6 if len(rows) else True


def test_thread_counts_do_not_reach_other_pipelines(
    vit_directory: Path, vit: MultiModalEmbeddingPipeline
) -> None:
    before = vit.model.encoder.num_threads
    one = pipeline(model=vit_directory, device="cpu", num_threads=1)
    assert one.model.encoder.num_threads == 1

    def count() -> int:
        one.forward({"text": ["猫"] * 50})
        vit.forward({"text": "猫"})
        return pipeline(model=vit_directory, device="cpu").model.encoder.num_threads

    with ThreadPoolExecutor(4) as pool:
        assert {future.result() for future in [pool.submit(count) for _ in range(8)]} == {before}
    assert vit.model.encoder.num_threads == before


# Embeds for minutes unless it is interrupted; says when it starts and how it ended.
ENDLESS = """
import signal, sys
import cnclip
from PIL import Image
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
p = cnclip.pipeline(model=sys.argv[1], device="cpu")
p.forward({"text": "a", "img": Image.new("RGB", (8, 8))})
items = {"text": ["\\u732b" * 40] * 2_000_000} if sys.argv[2] == "text" else {
    "img": [Image.new("RGB", (400, 400))] * 500_000
}
print("started", flush=True)
try:
    p.forward(items, batch_size=8)
    print("finished")
except KeyboardInterrupt:
    print("interrupted", p.forward({"text": "a"})["text_embedding"].shape)
"""


@pytest.mark.parametrize("kind", ["text", "img"])
def test_ctrl_c_ends_a_long_forward(vit_directory: Path, kind: str) -> None:
    command = [sys.executable, "-c", ENDLESS, str(vit_directory), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        rest = process.stdout.read()
        assert rest.startswith("interrupted (1, ")
        # A batch takes milliseconds; the rest is a slow machine's allowance.
        assert time.monotonic() - sent < 10
    assert process.returncode == 0


# {before} runs in the parent, {child} in a child of it, which ends after 30 seconds if it hangs.
FORK = """
import os, signal, sys
import cnclip
model = sys.argv[1]
{before}
child = os.fork()
if child == 0:
    signal.alarm(30)
    try:
        {child}
    except cnclip.errors.ForkedProcessError as error:
        print("refused:", error, flush=True)
    os._exit(0)
_, status = os.waitpid(child, 0)
print("status", status)
p = cnclip.pipeline(model=model, device="cpu")
print("parent", p.forward({{"text": "a"}})["text_embedding"].shape)
"""

EMBED = """p = cnclip.pipeline(model=model, device="cpu")
        print("child", p.forward({"text": ["a"] * 99})["text_embedding"].shape, flush=True)"""
USE_TORCH = "import torch; torch.randn(600, 600) @ torch.randn(600, 600)"
USE_CNCLIP = 'p = cnclip.pipeline(model=model, device="cpu"); p.forward({"text": ["a"] * 99})'


@needs_fork
@pytest.mark.parametrize("before", ["", USE_TORCH], ids=["fresh", "torch used"])
def test_a_child_may_open_a_pipeline_of_its_own(
    run_python: Run, vit_directory: Path, vit: MultiModalEmbeddingPipeline, before: str
) -> None:
    done = run_python(FORK.format(before=before, child=EMBED), vit_directory)
    assert done.stdout == "child (99, 64)\nstatus 0\nparent (1, 64)\n"


@needs_fork
@pytest.mark.parametrize(
    "child",
    [
        'p.forward({"text": "a"})',
        'cnclip.pipeline(model=model, device="cpu")',
        'p.model.encoder.save_prepared("/dev/null")',
    ],
    ids=["forward", "open", "save"],
)
def test_a_child_of_a_process_that_embedded_is_refused(
    run_python: Run, vit_directory: Path, vit: MultiModalEmbeddingPipeline, child: str
) -> None:
    done = run_python(FORK.format(before=USE_CNCLIP, child=child), vit_directory)
    refusal, status, parent = done.stdout.splitlines()
    assert refusal.startswith("refused: ")
    assert "this process was forked" in refusal
    assert "spawn" in refusal
    assert (status, parent) == ("status 0", "parent (1, 64)")


SPAWN = """
import multiprocessing, sys
import cnclip

def embed(model):
    return cnclip.pipeline(model=model, device="cpu").forward({"text": "a"})["text_embedding"].shape

if __name__ == "__main__":
    cnclip.pipeline(model=sys.argv[1], device="cpu").forward({"text": ["a"] * 99})
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        print(pool.map(embed, [sys.argv[1]] * 2))
"""


def test_spawned_workers_embed(tmp_path: Path, vit_directory: Path) -> None:
    script = tmp_path / "workers.py"
    script.write_text(SPAWN, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), str(vit_directory)],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.stdout == "[(1, 64), (1, 64)]\n", done.stderr
