"""The towers on a GPU, compared with the same towers in PyTorch.

    python benchmarks/gpu_towers.py [--random ViT-B-16] [--precision bf16] [--device cuda:0]
        [--batch N] [--texts N] [--rounds N] [--compiled] [--profile]

Weights are random. "cnclip" takes bytes of images from this machine's memory and returns rows to
it; two threads call it, as bulk embedding does, so that one batch is uploaded while the other is
computed. The others compute what is on the GPU already: `eager` and `compiled` (torch.compile) are
the plain modules of cnclip.modeling with scaled_dot_product_attention, `AOTInductor` is the same
module compiled ahead of time. They take turns; medians are printed, and their share of the rate of
a product of two 8192 x 8192 matrices. --profile prints the kernels of one batch by time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnclip import pipeline
from cnclip.benchmark import random_archive
from cnclip.benchmark.flops import image_flops, text_flops
from cnclip.benchmark.inputs import SHORT_TOKENS, make_texts
from cnclip.checkpoints.modelscope import untrained_checkpoint
from cnclip.modeling.clip import ChineseClip
from cnclip.pipelines import MultiModalEmbeddingPipeline

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
BATCHES = 6  # of a turn


class ImageTower(nn.Module):
    """The image tower alone, for compilers."""

    def __init__(self, model: ChineseClip) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.encode_image(pixels)


def seconds_on_gpu(call: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    begin = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def repeated(call: Callable[[], object]) -> Callable[[], None]:
    def repeat() -> None:
        for _ in range(BATCHES):
            call()

    return repeat


def product_rate(dtype: torch.dtype, device: str) -> float:
    """FLOP/s of a large product."""
    size = 8192
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    a @ b
    turn = repeated(lambda: a @ b)
    return 2 * size**3 * BATCHES / statistics.median(seconds_on_gpu(turn) for _ in range(5))


def cnclip_calls(
    embedder: MultiModalEmbeddingPipeline, images: int, texts: int
) -> dict[str, Callable[[], object]]:
    encoder, side = embedder.model.encoder, embedder.preprocessor.image_resolution
    pixels = np.random.default_rng(0).integers(0, 256, (images, side, side, 4), np.uint8)
    some = make_texts(texts, SHORT_TOKENS)
    return {
        "cnclip images": lambda: encoder.encode_pixels(pixels),
        "cnclip texts": lambda: encoder.encode_texts(some),
    }


def plain_calls(
    arguments: argparse.Namespace, side: int, folder: str
) -> dict[str, Callable[[], object]]:
    """The image tower in PyTorch, on pixels that are on the GPU."""
    device, dtype = arguments.device, DTYPES[arguments.precision]
    model = ChineseClip(untrained_checkpoint(arguments.random).config)
    model.initialize()
    tower = ImageTower(model).to(device, dtype).eval()
    pixels = torch.randn(arguments.batch, 3, side, side, device=device, dtype=dtype)
    calls: dict[str, Callable[[], object]] = {"eager images": lambda: tower(pixels)}
    if arguments.compiled:
        compiled = torch.compile(tower)
        ahead = compiled_ahead(tower, pixels, folder)
        calls["compiled images"] = lambda: compiled(pixels)
        calls["AOTInductor images"] = lambda: ahead(pixels)
    return calls


def compiled_ahead(module: nn.Module, pixels: Tensor, folder: str) -> Callable[[Tensor], Any]:
    """The module compiled by AOTInductor for this shape."""
    exported = torch.export.export(module, (pixels,))
    package = torch._inductor.aoti_compile_and_package(
        exported, package_path=str(Path(folder) / "tower.pt2")
    )
    return torch._inductor.aoti_load_package(package)


def print_kernels(call: Callable[[], object]) -> None:
    """Print where a batch's time goes."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        call()
        torch.cuda.synchronize()
    events = sorted(profile.key_averages(), key=lambda e: -e.self_device_time_total)
    total = sum(event.self_device_time_total for event in events)
    for event in events[:16]:
        share = event.self_device_time_total / total
        each = event.self_device_time_total / event.count
        print(f"{share:6.1%} {event.count:5} x {each:8.1f} us  {event.key[:90]}")
    print(f"       all kernels and copies {total / 1e3:.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--random", default="ViT-B-16", metavar="ARCHITECTURE")
    parser.add_argument("--precision", default="bf16", choices=DTYPES)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--batch", type=int, default=256, help="images")
    parser.add_argument("--texts", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compiled", action="store_true", help="also torch.compile, AOTInductor")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("not measured: torch finds no GPU")
        return
    dtype, device = DTYPES[arguments.precision], arguments.device
    torch.cuda.set_device(device)  # the one that torch.cuda.synchronize waits for
    calls: dict[str, tuple[Callable[[], object], int, float]] = {}  # call, items, FLOPs of an item
    with (
        random_archive(arguments.random) as archive,
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(2) as threads,
        torch.no_grad(),
    ):
        embedder = pipeline(model=archive, device=device, precision=arguments.precision)
        sizes = embedder.model.info.metadata["architecture"]
        of_image, of_text = image_flops(sizes), text_flops(sizes, SHORT_TOKENS)
        for name, call in cnclip_calls(embedder, arguments.batch, arguments.texts).items():
            count, flops = arguments.batch, of_image
            if "texts" in name:
                count, flops = arguments.texts, of_text
            if arguments.profile:
                call()
                print(name, arguments.random, arguments.precision, f"batch of {count}")
                print_kernels(call)

            def overlapped(call: Callable[[], object] = call) -> None:
                list(threads.map(lambda _: call(), range(BATCHES)))

            calls[name] = (overlapped, BATCHES * count, flops)
        side = embedder.preprocessor.image_resolution
        for name, call in plain_calls(arguments, side, folder).items():
            calls[name] = (repeated(call), BATCHES * arguments.batch, of_image)

        peak = product_rate(dtype, device)
        samples: dict[str, list[float]] = {name: [] for name in calls}
        for round_ in range(arguments.rounds + 1):
            for name, (call, items, _) in calls.items():
                seconds = seconds_on_gpu(call)
                if round_ > 0:  # the first compiles and chooses algorithms
                    samples[name].append(items / seconds)
    print(
        f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, {arguments.random}, "
        f"{arguments.precision}; a product of 8192 x 8192: {peak / 1e12:.0f} TFLOP/s"
    )
    for name, rates in samples.items():
        rate = statistics.median(rates)
        achieved = rate * calls[name][2]
        print(f"{name:20}{rate:10.0f} /s  {achieved / 1e12:5.0f} TFLOP/s  {achieved / peak:5.1%}")


if __name__ == "__main__":
    main()
