"""The code that resizes images on a GPU, run on the CPU: its pixels are the core's and Pillow's.

`cuda_on_host.cpp` takes the place of CUDA's driver and compiler. All else is the engine's own: the
kernels, their arguments, memory and copies. tests/gpu runs them on a GPU.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cnclip import _core
from cnclip.engine.build import CUDA, SOURCES, write_kernels

HERE = Path(__file__).parent
CORE = ("base/status.c", "image/plan.c", "image/resample.c")
ENGINE = (f"{CUDA}/cuda_compiler.cpp", f"{CUDA}/cuda_library.cpp", f"{CUDA}/cuda_resize.cpp")
# A sanitizer's library must not be loaded into the compiler and the programs that it makes.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}

THREE_BYTES, FOUR_BYTES, PLANES_UPSIDE_DOWN = range(3)
Job = tuple[NDArray[np.uint8], int, int]  # [h, w, 3]; its layout in memory; the resolution

pytestmark = [
    pytest.mark.skipif(
        sys.platform != "linux" or shutil.which("g++") is None, reason="needs Linux and g++"
    ),
    pytest.mark.skipif(
        not all((SOURCES / name).exists() for name in CORE),
        reason="an installed package has no sources of the core",
    ),
]


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`resize_on_host`, next to its libraries."""
    folder = tmp_path_factory.mktemp("resize_on_host")
    write_kernels(folder)
    common = ["-O1", "-fPIC", "-fsanitize=address", f"-I{SOURCES}", f"-I{folder}"]
    strict = ["-std=c++20", "-Wall", "-Wextra", "-Werror", *common]
    objects = [str(folder / f"{Path(name).stem}.o") for name in CORE]
    library = ["-shared", "-Wl,-soname,libtorch_cuda.so", "-o", str(folder / "libtorch_cuda.so")]
    fake = [str(HERE / name) for name in ("cuda_on_host.cpp", "cuda_stubs.cpp")]
    building = [subprocess.Popen(["g++", *strict, *fake, *library], env=ENVIRONMENT)]
    for name, output in zip(CORE, objects, strict=True):
        command = ["gcc", "-std=c11", "-ffp-contract=off", *common, "-c", str(SOURCES / name)]
        subprocess.run([*command, "-o", output], check=True, env=ENVIRONMENT)
    sources = [str(HERE / "resize_on_host.cpp"), *(str(SOURCES / name) for name in ENGINE)]
    made = folder / "resize_on_host"
    command = ["g++", *strict, *sources, *objects, "-o", str(made), "-ldl", "-pthread"]
    subprocess.run(command, check=True, env=ENVIRONMENT)
    assert building[0].wait() == 0
    (folder / "libcaffe2_nvrtc.so").symlink_to("libtorch_cuda.so")
    return made


def resize(
    program: Path, jobs: list[Job], piece_bytes: int = 8 << 20, threads: int = 1, **environment: str
) -> tuple[list[NDArray[np.uint8]], int]:
    """The results, uint8 [r, r, 4], and how many allocations failed."""
    sent = []
    for pixels, layout, resolution in jobs:
        height, width = pixels.shape[:2]
        sent.append(np.array([width, height, layout, resolution], np.int32).tobytes())
        if layout == FOUR_BYTES:
            fourth = np.full((height, width, 1), 77, np.uint8)  # ignored
            sent.append(np.concatenate([pixels, fourth], axis=2).tobytes())
        elif layout == PLANES_UPSIDE_DOWN:
            sent.append(pixels.transpose(2, 0, 1)[:, ::-1].tobytes())
        else:
            sent.append(pixels.tobytes())
    command = [program, program.parent / "libtorch_cuda.so", str(piece_bytes), str(threads)]
    done = subprocess.run(
        command, input=b"".join(sent), capture_output=True, env=ENVIRONMENT | environment
    )
    assert done.returncode == 0, done.stderr.decode()
    results = []
    start = 0
    for *_, side in jobs:
        part = np.frombuffer(done.stdout, np.uint8, side * side * 4, start)
        results.append(part.reshape(side, side, 4))
        start += part.size
    assert start == len(done.stdout)
    return results, int(done.stderr.decode().removeprefix("failures: "))


def assert_equal_to_the_core(jobs: list[Job], results: list[NDArray[np.uint8]]) -> None:
    for (pixels, _, side), result in zip(jobs, results, strict=True):
        expected = _core.ImageProcessor(side).resize([pixels])[0]
        np.testing.assert_array_equal(result, expected, str(pixels.shape))
        by_pillow = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(result[..., :3], np.asarray(by_pillow), str(pixels.shape))


def noise(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """Extreme values, whose sums leave the range of a byte on both sides."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels[pixels < 64] = 0
    pixels[pixels > 192] = 255
    return pixels


# Height, width. One pixel; one row, one column; sides that are right already; twice as many rows
# lost as columns, and one more.
SIZES = [(1, 1), (1, 4000), (4000, 1), (2, 3), (32, 32), (32, 900), (900, 32), (31, 33), (33, 31)]
SIZES += [(72, 52), (73, 52), (500, 7), (7, 500), (640, 480), (480, 640)]


@pytest.mark.parametrize("layout", [THREE_BYTES, FOUR_BYTES, PLANES_UPSIDE_DOWN])
@pytest.mark.parametrize("piece_bytes", [1, 5000, 8 << 20])
def test_pixels_of_a_gpu_on_the_cpu(program: Path, layout: int, piece_bytes: int) -> None:
    """Also in pieces of one row or column each, and of a few with a smaller one at the end."""
    jobs = [(noise(seed, *size), layout, 32) for seed, size in enumerate(SIZES)]
    jobs += [(noise(seed, *size), layout, 7) for seed, size in enumerate(SIZES)]
    results, failures = resize(program, jobs, piece_bytes)
    assert_equal_to_the_core(jobs, results)
    assert failures == 0


def test_random_sizes_on_threads(program: Path) -> None:
    """Images of all sizes and layouts in turn, in the same memory, at once."""
    random = np.random.default_rng(3)
    jobs = []
    for seed in range(60):
        height, width = np.exp(random.uniform(0, 6.2, 2)).astype(int)
        side = int(random.integers(1, 80))
        jobs.append((noise(seed, height, width), int(random.integers(3)), side))
    results, _ = resize(program, jobs, int(random.integers(1, 20000)), threads=7)
    assert_equal_to_the_core(jobs, results)


def test_a_photo_of_twelve_megapixels_on_the_cpu(program: Path) -> None:
    jobs = [(noise(1, 3000, 4000), FOUR_BYTES, 224)]
    results, _ = resize(program, jobs)
    assert_equal_to_the_core(jobs, results)


@pytest.mark.parametrize("name", ["FAILING_PINNED", "FAILING_DEVICE"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_memory_that_ends_while_resizing(program: Path, name: str, number: int) -> None:
    """The image fails with an error of memory, and all that follow are right."""
    heights = (5, 90, 7, 200, 30, 400)
    jobs = [(noise(seed, height, 60), FOUR_BYTES, 16) for seed, height in enumerate(heights)]
    results, failures = resize(program, jobs, **{name: str(number)})
    assert failures == 1
    assert_equal_to_the_core(jobs, results)
