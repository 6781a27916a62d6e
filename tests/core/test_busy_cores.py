"""Threads of a run while other processes use the cores."""

from __future__ import annotations

import ctypes
import io
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnclip import _core, pipeline
from cnclip.pipelines import builder
from cnclip.preprocessors import CLIPPreprocessor, multi_modal

Run = Callable[..., subprocess.CompletedProcess[str]]
Rows = dict[str, Any]

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two cores, and a system that sets the affinity",
)

# On two cores that other processes use: prints how many threads runs start, of how many.
BUSY = """
import os, subprocess, sys, time
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
loop = [sys.executable, "-c", "while True: pass"]
neighbours = [subprocess.Popen(loop) for _ in range(2)]
try:
    from cnclip import _core, pipeline
    end = time.monotonic() + 60
    while _core.cores_free() != 1 and time.monotonic() < end:
        time.sleep(0.05)
    def started(**options):
        before = set(os.listdir("/proc/self/task"))
        opened = pipeline(model=sys.argv[1], device="cpu", **options)
        opened.forward({"text": ["\\u732b" * (i % 40) for i in range(200)]})
        print(len(set(os.listdir("/proc/self/task")) - before), opened.model.encoder.num_threads)
    started()
    started(num_threads=2)
finally:
    for neighbour in neighbours:
        neighbour.kill()
        neighbour.wait()
"""


@pytest.mark.parametrize(
    ("number", "by_default"), [("", "0 2"), ("2", "1 2")], ids=["unset", "OMP_NUM_THREADS=2"]
)
def test_busy_cores_are_spared_unless_a_number_is_set(
    run_python: Run, archive: Path, number: str, by_default: str
) -> None:
    done = run_python(BUSY, archive, OMP_NUM_THREADS=number)
    # The threads of the first pipeline serve the second, which has num_threads=2.
    assert done.stdout.splitlines() == [by_default, "1 2" if by_default == "0 2" else "0 2"]


# Prints whether a run of one text wakes other threads: they go to sleep again after it.
ALONE = """
import os, sys, time
from cnclip import pipeline
def switches():
    found = {}
    for task in os.listdir("/proc/self/task"):
        if int(task) != os.getpid():
            lines = open(f"/proc/self/task/{task}/status").read().splitlines()
            found[task] = [line for line in lines if "ctxt_switches" in line]
    return found
number = int(sys.argv[2]) or None
opened = pipeline(model=sys.argv[1], device="cpu", num_threads=number)
opened.forward({"text": "\u732b"})
before = None
while (now := switches()) != before:  # until all sleep
    before = now
    time.sleep(0.2)
opened.forward({"text": "\u732b"})
end = time.monotonic() + (60 if number else 0.2)
while switches() == before and time.monotonic() < end:
    time.sleep(0.05)
print(switches() != before)
"""


@pytest.mark.parametrize(("number", "expected"), [(0, "False"), (2, "True")])
def test_a_short_text_of_a_small_model_wakes_no_thread_unless_a_number_is_set(
    run_python: Run, archive: Path, number: int, expected: str
) -> None:
    done = run_python(ALONE, archive, str(number), OMP_NUM_THREADS="")
    assert done.stdout.split() == [expected]


def with_one_thread(function: Callable[[], Rows]) -> Rows:
    """Call a function whose parallel loops get one thread, while libtorch sees more."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    openmp = next(line.split()[-1] for line in lines if "libgomp" in line)
    results: list[Rows] = []
    body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: results.append(function()))
    ctypes.CDLL(openmp).GOMP_teams_reg(body, None, 1, 1, 0)
    return results[0]


@pytest.mark.parametrize("name", ["tiny-vit", "tiny-rn"])
def test_bits_do_not_depend_on_busy_cores(
    golden: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "is_number_fixed", lambda: False)
    opened = []
    for number in (2, 3, 8):
        monkeypatch.setattr(builder, "model_threads", lambda number=number: number)
        opened.append(pipeline(model=golden / name, device="cpu"))
    assert [one.model.encoder.num_threads for one in opened] == [2, 3, 8]
    random = np.random.default_rng(0)
    images = list(random.integers(0, 255, (20, 70, 90, 3), dtype=np.uint8))
    # The last layers have one row for each item, and MKL computes few rows in other ways.
    for count in range(1, 21):
        batch = {"text": ["戴眼镜的猫" * 3] * count, "img": images[:count]}
        first = opened[0].forward(batch)
        for one in opened:
            found = (
                one.forward(batch),
                with_one_thread(lambda one=one, batch=batch: one.forward(batch)),
            )
            for rows in found:
                for key in first:
                    assert np.array_equal(rows[key], first[key]), (key, count)


ARRAY = np.zeros((40, 50, 3), np.uint8)
LARGE = np.zeros((1200, 900, 3), np.uint8)


def threads_of(
    archive: Path, monkeypatch: pytest.MonkeyPatch, images: Any, number: int | None = None
) -> set[int]:
    """The threads that prepare images; where `number` is None, cores are spared."""
    monkeypatch.setattr(multi_modal, "usable_cores", lambda: 3)
    monkeypatch.setattr(multi_modal, "is_number_fixed", lambda: False)
    preprocessor = CLIPPreprocessor(archive, number)
    found = set()

    def tensor(pixels: Any, **options: Any) -> Any:
        found.add(threading.get_ident())
        return np.zeros((1, 3, 2, 2), np.float32)

    monkeypatch.setattr(preprocessor, "_tensor", tensor)
    monkeypatch.setattr(preprocessor, "image_resolution", 2)
    preprocessor({"img": images})
    return found


@pytest.mark.parametrize(
    ("images", "is_quick"),
    [
        ([ARRAY] * 8, True),
        ([Image.new("RGB", (40, 50))] * 8, True),
        ([LARGE] * 7, True),
        ([LARGE] * 8, False),
        (["image.png"] * 8, False),
        ([ARRAY] * 7 + ["image.png"], False),
    ],
    ids=["arrays", "images", "7 megapixels", "8 megapixels", "paths", "a path"],
)
def test_a_few_open_images_are_resampled_on_free_cores(
    archive: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    images: list[Any],
    is_quick: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 50)).save("image.png")
    caller = {threading.get_ident()}
    monkeypatch.setattr(_core, "cores_free", lambda: 1)
    assert (threads_of(archive, monkeypatch, images) == caller) == is_quick
    assert caller.isdisjoint(threads_of(archive, monkeypatch, images, number=3))
    monkeypatch.setattr(_core, "cores_free", lambda: 2)
    assert caller.isdisjoint(threads_of(archive, monkeypatch, images))


def test_an_unread_image_is_not_quick(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "cores_free", lambda: 1)
    buffer = io.BytesIO()
    Image.new("RGB", (40, 50)).save(buffer, "PNG")
    unread = [Image.open(io.BytesIO(buffer.getvalue())) for _ in range(8)]
    caller = {threading.get_ident()}
    assert caller.isdisjoint(threads_of(archive, monkeypatch, unread))
    assert threads_of(archive, monkeypatch, unread) == caller  # they are read now
