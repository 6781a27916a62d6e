"""Preprocessing of open images: cnclip against Pillow and NumPy.

Usage: python benchmarks/preprocessing.py [--rounds N]

First one image: the core's ImageProcessor, one thread each. Then a call of `preprocess` with eight
images, all that Python does included, on one thread and on the default number of threads; Pillow
and NumPy make a tensor of each image and one of all, as ModelScope does.

Both sides convert RGB images to float32 [n, 3, 224, 224] and return the same bits; the script
checks this first. They take turns, so that a change in the machine's speed affects both alike.
Medians are printed. With one thread each it is the CPU time of the process, which other programs
hardly change, otherwise the time on the clock.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnclip import _core
from cnclip.modeling.config import CLIP_MEAN, CLIP_STD
from cnclip.models import open_archive
from cnclip.preprocessors import CLIPPreprocessor

RESOLUTION = 224
SIZES = ((256, 256), (640, 480), (1920, 1080), (4000, 3000))
BATCH, BATCH_SIZE = 8, (640, 480)

MEAN = np.array(CLIP_MEAN, np.float32)[:, None, None]
STD = np.array(CLIP_STD, np.float32)[:, None, None]


def pillow_and_numpy(image: Image.Image) -> NDArray[np.float32]:
    """Resize, scale and normalize as torchvision's Resize, ToTensor and Normalize do."""
    resized = image.resize((RESOLUTION, RESOLUTION), Image.Resampling.BICUBIC)
    pixels = np.asarray(resized).transpose(2, 0, 1).astype(np.float32)
    pixels /= np.float32(255)
    pixels -= MEAN
    pixels /= STD
    return pixels[None]


def open_image(width: int, height: int, seed: int = 0) -> Image.Image:
    """An image of noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(noise)


def seconds_of(function: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    function()
    return clock() - start


def compare(
    theirs: Callable[[], NDArray[np.float32]],
    ours: Callable[[], NDArray[np.float32]],
    rounds: int,
    clock: Callable[[], float],
) -> tuple[float, float]:
    """Return the median seconds of both."""
    if not np.array_equal(theirs(), ours()):
        raise SystemExit("the two differ")
    pairs = [(seconds_of(theirs, clock), seconds_of(ours, clock)) for _ in range(rounds)]
    their_times, our_times = zip(*pairs, strict=True)
    return statistics.median(their_times), statistics.median(our_times)


def compare_one(width: int, height: int, rounds: int) -> tuple[float, float]:
    """Return the median seconds of Pillow and NumPy, and of the core, for one image."""
    image = open_image(width, height)
    processor = _core.ImageProcessor(RESOLUTION)
    return compare(
        lambda: pillow_and_numpy(image),
        lambda: processor.process([image]),
        rounds,
        time.process_time,
    )


def compare_calls(threads: int | None, rounds: int) -> tuple[float, float]:
    """Return the median seconds of Pillow and NumPy, and of `preprocess`, for a batch."""
    images = [open_image(*BATCH_SIZE, seed) for seed in range(BATCH)]
    info = replace(open_archive("emoji-cn"), resolution=RESOLUTION, mean=CLIP_MEAN, std=CLIP_STD)
    preprocess = CLIPPreprocessor(info, threads)
    return compare(
        lambda: np.concatenate([pillow_and_numpy(image) for image in images]),
        lambda: preprocess({"img": images})["img"],
        rounds,
        time.process_time if threads == 1 else time.perf_counter,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=101, help="default: %(default)s")
    rounds = parser.parse_args().rounds
    print(f"kernels: {_core.ImageProcessor(RESOLUTION).isa}; medians of {rounds} rounds, ms")
    print(f"{'one image':>12} {'Pillow+NumPy':>13} {'cnclip':>8} {'ratio':>6}")
    for width, height in SIZES:
        report(f"{width} x {height}", *compare_one(width, height, rounds))
    print(f"a call of preprocess with {BATCH} images of {BATCH_SIZE[0]} x {BATCH_SIZE[1]}")
    report("one thread", *compare_calls(1, rounds))
    report("default", *compare_calls(None, rounds))


def report(name: str, theirs: float, ours: float) -> None:
    print(f"{name:>12} {theirs * 1e3:13.2f} {ours * 1e3:8.2f} {theirs / ours:6.1f}")


if __name__ == "__main__":
    main()
