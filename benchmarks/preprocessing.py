"""Preprocessing of one image: cnclip's ImageProcessor against Pillow and NumPy, one thread each.

Usage: python benchmarks/preprocessing.py [--rounds N]

Both convert an open RGB image to float32 [1, 3, 224, 224] and return the same bits; the script
checks this first. They take turns, so that a change in the machine's speed affects both alike.
Medians are printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnclip import _core
from cnclip.modeling.config import CLIP_MEAN, CLIP_STD

RESOLUTION = 224
SIZES = ((256, 256), (640, 480), (1920, 1080), (4000, 3000))

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


def seconds_of(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(width: int, height: int, rounds: int) -> tuple[float, float]:
    """Return the median seconds of Pillow and NumPy, and of cnclip, for one image of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(noise)
    processor = _core.ImageProcessor(RESOLUTION)
    if not np.array_equal(pillow_and_numpy(image), processor.process([image])):
        raise SystemExit(f"{width} x {height}: the two differ")
    pairs = [
        (
            seconds_of(lambda: pillow_and_numpy(image)),
            seconds_of(lambda: processor.process([image])),
        )
        for _ in range(rounds)
    ]
    theirs, ours = zip(*pairs, strict=True)
    return statistics.median(theirs), statistics.median(ours)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=101, help="default: %(default)s")
    rounds = parser.parse_args().rounds
    print(f"kernels: {_core.ImageProcessor(RESOLUTION).isa}; medians of {rounds} rounds, ms")
    print(f"{'image':>12} {'Pillow+NumPy':>13} {'cnclip':>8} {'ratio':>6}")
    for width, height in SIZES:
        theirs, ours = compare(width, height, rounds)
        size = f"{width} x {height}"
        print(f"{size:>12} {theirs * 1e3:13.2f} {ours * 1e3:8.2f} {theirs / ours:6.1f}")


if __name__ == "__main__":
    main()
