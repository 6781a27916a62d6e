"""The core's operators compared with torch's: one layer of ViT-B/16, a batch of 8 images.

Usage: python benchmarks/kernels.py [--rounds N] [--images N]

Linear layers, with the normalization, activation and residual around them, and attention, on all
threads. Both take turns, so that a change in the machine's speed affects both alike. Medians are
printed, and the operations per second of the matrix products. torch computes in the same type; int8
is compared with torch's bfloat16, since torch has no int8 layer.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from cnclip.engine import open_engine

open_engine()  # which registers torch.ops.cnclip

ROWS, WIDTH, HEADS = 197, 768, 12
# Name, columns of the input, of the output, activation, whether normalized, whether added to x.
LAYERS = (
    ("query, key, value", WIDTH, 3 * WIDTH, "", True, False),
    ("attention's output", WIDTH, WIDTH, "", False, True),
    ("widening, QuickGELU", WIDTH, 4 * WIDTH, "quick_gelu", True, False),
    ("narrowing", 4 * WIDTH, WIDTH, "", False, True),
)
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.bfloat16}


def medians(functions: list[Callable[[], object]], rounds: int) -> list[float]:
    """Median seconds of each function."""
    seconds: list[list[float]] = [[] for _ in functions]
    for turn in range(-1, rounds):
        for function, found in zip(functions, seconds, strict=True):
            start = time.perf_counter()
            function()
            if turn >= 0:
                found.append(time.perf_counter() - start)
    return [statistics.median(found) for found in seconds]


def report(name: str, precision: str, theirs: float, ours: float, operations: float) -> None:
    rates = [operations / seconds / 1e9 for seconds in (theirs, ours)]
    print(
        f"{name:22} {precision:5} {theirs * 1e3:9.2f} {ours * 1e3:9.2f} {theirs / ours:6.2f}"
        f" {rates[0]:9.0f} {rates[1]:9.0f}"
    )


def compare_layers(rows: int, precision: str, rounds: int) -> None:
    dtype = PRECISIONS[precision]
    for name, width, columns, activation, normalized, added in LAYERS:
        weight, bias = torch.randn(columns, width) / width**0.5, torch.randn(columns)
        packed = torch.ops.cnclip.pack_linear(weight, precision)
        if packed.dim() != 1:
            print(f"{name:22} {precision:5} no kernel on this machine")
            continue
        x = torch.randn(rows, width).to(torch.float32 if normalized else dtype)
        norm = (torch.ones(width), torch.zeros(width)) if normalized else (None, None)
        residual = torch.randn(rows, columns) if added else None
        around = (bias, 0, columns, *norm, 1e-5, activation, residual)
        plain = weight.to(dtype)
        theirs, ours = medians(
            [
                lambda x=x, weight=plain, rest=around: torch.ops.cnclip.linear(x, weight, *rest),
                lambda x=x, weight=packed, rest=around: torch.ops.cnclip.linear(x, weight, *rest),
            ],
            rounds,
        )
        report(name, precision, theirs, ours, 2.0 * rows * width * columns)


def compare_attention(images: int, precision: str, rounds: int) -> None:
    dtype = PRECISIONS[precision]
    starts = torch.arange(images + 1) * ROWS
    query, key, value = torch.randn(images * ROWS, 3 * WIDTH).to(dtype).chunk(3, dim=1)

    def by_torch() -> torch.Tensor:
        heads = [rows.view(images, ROWS, HEADS, -1).transpose(1, 2) for rows in (query, key, value)]
        mixed = torch.nn.functional.scaled_dot_product_attention(*heads)
        return mixed.transpose(1, 2).reshape(-1, WIDTH)

    theirs, ours = medians(
        [
            by_torch,
            lambda: torch.ops.cnclip.attention(query, key, value, HEADS, starts, starts),
        ],
        rounds,
    )
    report("attention", precision, theirs, ours, 4.0 * images * ROWS**2 * WIDTH)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="default: %(default)s")
    parser.add_argument("--images", type=int, default=8, help="default: %(default)s")
    arguments = parser.parse_args()
    print(f"{torch.get_num_threads()} threads; medians of {arguments.rounds} rounds, ms")
    heading = ("torch", "cnclip", "ratio", "Gop/s", "Gop/s")
    print(
        f"{'':28} {heading[0]:>9} {heading[1]:>9} {heading[2]:>6} {heading[3]:>9} {heading[4]:>9}"
    )
    with torch.inference_mode():
        for precision in PRECISIONS:
            compare_layers(arguments.images * ROWS, precision, arguments.rounds)
            if precision != "int8":
                compare_attention(arguments.images, precision, arguments.rounds)


if __name__ == "__main__":
    main()
