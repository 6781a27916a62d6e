"""Bulk embedding of JPEG files, compared with its parts alone.

    python benchmarks/bulk_embedding.py [--random ViT-B-16] [--device cuda:0] [--precision bf16]
        [--resize gpu] [--images N] [--size WxH] [--rounds N]

The model has a published size and random weights. "model" runs batches of prepared pixels, as many
at a time as bulk embedding does. "decoding" opens and resamples the files on as many threads as
bulk embedding does, without a model. "bulk" is `cnclip.bulk.embed` from a folder of JPEG files to a
folder of shards, including the listing of the files and the writing. They take turns; the medians
of images per second are printed, and the ratio of "bulk" to the slower of the others.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from cnclip import bulk, pipeline
from cnclip.benchmark import random_archive
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.preprocessors.image import load_image


def write_images(folder: Path, count: int, width: int, height: int) -> None:
    """Write different JPEG files with about as many bytes per pixel as a photo has."""
    random = np.random.default_rng(0)
    for number in range(count):
        noise = random.integers(0, 256, (height, width, 3), np.uint8)
        image = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(1.5))
        image.save(folder / f"{number:05}.jpg", quality=85)


def model_rate(embedder: MultiModalEmbeddingPipeline, count: int) -> float:
    model, side = embedder.model, embedder.preprocessor.image_resolution
    random, batch = np.random.default_rng(0), model.image_batch
    pixels: NDArray[Any] = random.random((batch, 3, side, side), np.float32)
    if model.takes_bytes:
        pixels = random.integers(0, 256, (batch, side, side, 4), np.uint8)
    with ThreadPoolExecutor(model.batches_under_way) as threads:
        begin = time.perf_counter()
        list(threads.map(model.encoder.encode_pixels, [pixels] * (count // batch)))
        return count / (time.perf_counter() - begin)


def decoding_rate(embedder: MultiModalEmbeddingPipeline, folder: Path, count: int) -> float:
    begin = time.perf_counter()
    tensors = embedder.preprocessor.tensors(
        sorted(folder.iterdir()), load_image, 64, as_bytes=embedder.model.takes_bytes, strict=True
    )
    assert sum(1 for _ in tensors) == count
    return count / (time.perf_counter() - begin)


def bulk_rate(embedder: MultiModalEmbeddingPipeline, folder: Path, count: int) -> float:
    with tempfile.TemporaryDirectory() as output:
        begin = time.perf_counter()
        report = bulk.embed(folder, embedder, output)
        seconds = time.perf_counter() - begin
    assert report.embedded == count
    return count / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--random", default="ViT-B-16", metavar="ARCHITECTURE")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--resize", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument(
        "--images", type=int, default=96, help="rounded down to whole batches, at least one"
    )
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    rates: dict[str, list[float]] = {"model": [], "decoding": [], "bulk": []}
    with (
        random_archive(arguments.random) as archive,
        tempfile.TemporaryDirectory() as directory,
    ):
        folder = Path(directory)
        embedder = pipeline(
            model=archive,
            device=arguments.device,
            precision=arguments.precision,
            resize=arguments.resize,
        )
        batch = embedder.model.image_batch
        count = max(1, arguments.images // batch) * batch
        write_images(folder, count, width, height)
        size = sum(path.stat().st_size for path in folder.iterdir()) / count / 1e3
        model_rate(embedder, 2 * batch)
        bulk_rate(embedder, folder, count)
        for _ in range(arguments.rounds):
            rates["model"].append(model_rate(embedder, count))
            rates["decoding"].append(decoding_rate(embedder, folder, count))
            rates["bulk"].append(bulk_rate(embedder, folder, count))
    print(
        f"{arguments.random}, {arguments.precision} on {arguments.device}, "
        f"resized on the {arguments.resize.upper()}, "
        f"{embedder.preprocessor.num_threads} threads; {count} JPEG files of {arguments.size}, "
        f"{size:.0f} kB"
    )
    for name, measured in rates.items():
        shown = " ".join(f"{rate:.2f}" for rate in measured)
        print(f"{name:9}{statistics.median(measured):10.2f} images/s   ({shown})")
    ratios = [
        bulk / min(model, decoding) for model, decoding, bulk in zip(*rates.values(), strict=True)
    ]
    print(f"ratio    {statistics.median(ratios):10.3f}")


if __name__ == "__main__":
    main()
