"""Bulk embedding of JPEG files, compared with the model alone.

    python benchmarks/bulk_embedding.py [--random ViT-B-16] [--images N] [--size WxH] [--rounds N]

The model has a published size and random weights. "model" runs batches of preprocessed pixels,
"bulk" is `cnclip.bulk.embed` from a folder of JPEG files to a folder of shards, including the
listing of the files and the writing. They take turns; the medians of images per second and their
ratio are printed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from cnclip import bulk, pipeline
from cnclip.benchmark import random_archive
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.pipelines.model import image_batch

BATCH = image_batch("cpu")


def write_images(folder: Path, count: int, width: int, height: int) -> None:
    """Write different JPEG files with about as many bytes per pixel as a photo has."""
    random = np.random.default_rng(0)
    for number in range(count):
        noise = random.integers(0, 256, (height, width, 3), np.uint8)
        image = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(1.5))
        image.save(folder / f"{number:05}.jpg", quality=85)


def model_rate(embedder: MultiModalEmbeddingPipeline, count: int) -> float:
    side = embedder.preprocessor.image_resolution
    pixels = np.random.default_rng(0).random((BATCH, 3, side, side), np.float32)
    begin = time.perf_counter()
    for _ in range(count // BATCH):
        embedder.model.encoder.encode_pixels(pixels)
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
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--images", type=int, default=96, help="a multiple of 8")
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    count = arguments.images // BATCH * BATCH
    width, height = map(int, arguments.size.split("x"))
    rates: dict[str, list[float]] = {"model": [], "bulk": []}
    with (
        random_archive(arguments.random) as archive,
        tempfile.TemporaryDirectory() as directory,
    ):
        folder = Path(directory)
        write_images(folder, count, width, height)
        size = sum(path.stat().st_size for path in folder.iterdir()) / count / 1e3
        embedder = pipeline(model=archive, device="cpu", precision=arguments.precision)
        model_rate(embedder, BATCH)
        bulk_rate(embedder, folder, count)
        for _ in range(arguments.rounds):
            rates["model"].append(model_rate(embedder, count))
            rates["bulk"].append(bulk_rate(embedder, folder, count))
    print(
        f"{arguments.random}, {arguments.precision}, {embedder.preprocessor.num_threads} threads; "
        f"{count} JPEG files of {arguments.size}, {size:.0f} kB"
    )
    for name, measured in rates.items():
        shown = " ".join(f"{rate:.2f}" for rate in measured)
        print(f"{name:6}{statistics.median(measured):8.2f} images/s   ({shown})")
    ratios = [bulk / model for model, bulk in zip(rates["model"], rates["bulk"], strict=True)]
    print(f"ratio {statistics.median(ratios):8.3f}")


if __name__ == "__main__":
    main()
