"""The description of this machine, and its peak arithmetic rate."""

from __future__ import annotations

import platform
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

from .. import _core
from ..environment import describe_processor

_PEAK_SECONDS = 0.1


def measure_peak(precision: str, num_threads: int, seconds: float = _PEAK_SECONDS) -> float | None:
    """Measure operations per second of `num_threads` threads that work in registers only.

    A multiply-add counts as two operations. The instructions are those of AVX-512, or of AVX2 for
    fp32 if the machine lacks AVX-512; matrix units such as AMX are not measured.

    Args:
        precision: `'fp32'` (vfmadd231ps), `'bf16'` (vdpbf16ps) or `'int8'` (vpdpbusd).
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


def describe_machine() -> dict[str, str | int]:
    """Return the processor's name, its cores, the system, and versions of the libraries."""
    return {
        **describe_processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "numpy", "pillow")},
    }
