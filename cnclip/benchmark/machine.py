"""What this machine is, and how much arithmetic it can do at best."""

from __future__ import annotations

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

from .. import _core

_PEAK_SECONDS = 0.1


def measure_peak(precision: str, num_threads: int, seconds: float = _PEAK_SECONDS) -> float | None:
    """Operations a second of `num_threads` threads at once, from registers alone.

    A multiply-add counts as two. The instructions are AVX-512's (for fp32 AVX2's where there is no
    other); matrix units such as AMX are not measured.

    Args:
        precision: `'fp32'` (vfmadd231ps), `'bf16'` (vdpbf16ps) or `'int8'` (vpdpbusd).
        num_threads: Threads, each of which does the same.
        seconds: How long, at most 60.

    Returns:
        The sum over the threads, or None where the machine has no instruction for the precision.

    Raises:
        InvalidInputError: another precision, or a length of time out of range.
    """
    with ThreadPoolExecutor(num_threads) as pool:
        rates = list(
            pool.map(_core.measure_peak, [precision] * num_threads, [seconds] * num_threads)
        )
    known = [rate for rate in rates if rate is not None]
    return sum(known) if known else None


def available_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_machine() -> dict[str, str | int]:
    """The processor's name, cores, the system, and versions of what computes."""
    names = ("torch", "numpy", "pillow")
    return {
        "processor": _processor_name(),
        "cores": available_cores(),
        "isa": _core.ImageProcessor(224).isa,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in names},
    }


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
