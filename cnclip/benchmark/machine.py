"""The description of this machine, and its peak arithmetic rate, on its CPU or a GPU."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any

from .. import _core
from ..environment import describe_processor

_PEAK_SECONDS = 0.1
_ISA_VARIABLE = "CNCLIP_FORCE_ISA"
# A product of square matrices with so many rows runs at a GPU's highest rate.
_GPU_ROWS = 8192
_GPU_TYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@contextlib.contextmanager
def forced_isa(isa: str | None) -> Iterator[None]:
    """Make pipelines that are opened meanwhile, and new processes, use an instruction set.

    Args:
        isa: A name for `$CNCLIP_FORCE_ISA`; None leaves the variable as it is.
    """
    before = os.environ.get(_ISA_VARIABLE)
    if isa is not None:
        os.environ[_ISA_VARIABLE] = isa
    try:
        yield
    finally:
        if before is not None:
            os.environ[_ISA_VARIABLE] = before
        elif isa is not None:
            del os.environ[_ISA_VARIABLE]


def measure_peak(precision: str, num_threads: int, seconds: float = _PEAK_SECONDS) -> float | None:
    """Measure operations per second of `num_threads` threads that work in registers only.

    A multiply-add counts as two operations. The instructions are the fastest that cnclip's kernels
    have for the machine; matrix units such as AMX are not measured.

    Args:
        precision: `'fp32'` (vfmadd231ps), `'bf16'` (vdpbf16ps) or `'int8'` (vpdpbusd; vpmaddwd and
            vpaddd without VNNI).
        num_threads: Threads that run the same instructions at once.
        seconds: Duration, at most 60.

    Returns:
        Operations per second of all threads, or None if the machine has no instruction for the
        precision.

    Raises:
        InvalidInputError: the precision is unknown, or the duration is out of range.
    """
    with ThreadPoolExecutor(num_threads) as pool:
        rates = list(
            pool.map(_core.measure_peak, [precision] * num_threads, [seconds] * num_threads)
        )
    known = [rate for rate in rates if rate is not None]
    return sum(known) if known else None


def measure_gpu_peak(precision: str, device: str, seconds: float = _PEAK_SECONDS) -> float:
    """Measure operations per second of a large matrix product on a GPU, through torch.

    A multiply-add counts as two operations. The matrices are random: a GPU multiplies zeros faster.
    Products of float32 are exact, without TF32.

    Args:
        precision: `'fp32'`, `'bf16'` or `'fp16'`.
        device: `'cuda:N'`.
        seconds: Duration; one product at least.

    Returns:
        Operations per second, of the fastest product.
    """
    import torch

    dtype = getattr(torch, _GPU_TYPES[precision])
    shape = (_GPU_ROWS, _GPU_ROWS)
    left, right = (torch.randn(shape, device=device, dtype=dtype) for _ in range(2))
    output = torch.empty_like(left)
    event: Any = torch.cuda.Event
    begun, ended = event(enable_timing=True), event(enable_timing=True)
    fastest, begin = float("inf"), time.perf_counter()
    with torch.cuda.device(device):
        torch.matmul(left, right, out=output)  # chooses the kernel
        while fastest == float("inf") or time.perf_counter() - begin < seconds:
            begun.record()
            torch.matmul(left, right, out=output)
            ended.record()
            ended.synchronize()
            fastest = min(fastest, begun.elapsed_time(ended) / 1000)
        del left, right, output
        torch.cuda.empty_cache()  # the models use the same memory
    return 2 * _GPU_ROWS**3 / fastest


def describe_machine(device: str = "cpu") -> dict[str, str | int]:
    """Return the processor's name, its cores, the system, and versions of the libraries.

    Args:
        device: `'cpu'`, or `'cuda:N'`, whose name and version of CUDA are returned too.
    """
    return {
        **describe_processor(),
        **({} if device == "cpu" else _describe_gpu(device)),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "numpy", "pillow")},
    }


def _describe_gpu(device: str) -> dict[str, str | int]:
    import torch

    return {"gpu": torch.cuda.get_device_name(device), "cuda": str(torch.version.cuda)}
