"""The result of a benchmark: as data, as JSON, as a table of plain text."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .._tables import format_table

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Result:
    """One measurement: its name, its configuration, and the spread of its samples.

    Attributes:
        name: The name of the measurement, such as "image 640 x 480".
        unit: "seconds" per item, or "bytes".
        median: The median of the samples, of which each round has one.
        p25: The lower quartile.
        p75: The upper quartile.
        samples: The number of samples.
        precision: "fp32", "bf16", "int8" or "fp16"; None for preprocessing and tokenizing.
        threads: CPU threads.
        isa: The instruction set of the kernels, "avx2" for example; None on a GPU, and for
            preprocessing and tokenizing.
        batch_size: Items per call; None if nothing is embedded.
        tokens: Tokens per text; None if no text is embedded.
        flops: Operations per item, see `flops.py`; None if nothing is embedded.
        peak_share: Operations per second divided by the machine's peak, 0 to 1; None if either is
            unknown.
    """

    name: str
    unit: str
    median: float
    p25: float
    p75: float
    samples: int
    precision: str | None = None
    threads: int | None = None
    batch_size: int | None = None
    tokens: int | None = None
    flops: int | None = None
    peak_share: float | None = None
    isa: str | None = None

    @property
    def flops_per_second(self) -> float | None:
        """Operations per second at the median."""
        return self.flops / self.median if self.flops else None

    @property
    def per_second(self) -> float | None:
        """Items per second at the median; None if nothing is embedded."""
        return 1 / self.median if self.flops else None


@dataclass(frozen=True)
class BenchmarkReport:
    """The results of one run.

    Attributes:
        date: The end of the run, ISO 8601 in UTC.
        version: cnclip's.
        machine: The result of `describe_machine`, with "gpu" if the model ran on one.
        model: The model's name, parameters, and operations per image and text.
        settings: The run's `Settings`.
        peaks: {"precision", "threads", "flops_per_second"} of the machine, the best of the rounds;
            the rate is None if the machine has no instruction for the precision. On a GPU, that
            of a large matrix product.
        results: The measurements.
        skipped: {"precision", "reason"} for each precision that this machine cannot compute, and
            {"isa", "reason"} for each instruction set that it lacks.
    """

    date: str
    version: str
    machine: dict[str, str | int]
    model: dict[str, Any]
    settings: dict[str, Any]
    peaks: list[dict[str, Any]]
    results: list[Result]
    skipped: list[dict[str, str]]

    def as_json(self) -> dict[str, Any]:
        """Return the report for `json.dumps`; `format` changes when a key changes its meaning."""
        return {"format": FORMAT_VERSION, **dataclasses.asdict(self)}


def spread(samples: Sequence[float]) -> tuple[float, float, float]:
    """Return the median, lower and upper quartile of at least one sample."""
    if len(samples) == 1:
        return samples[0], samples[0], samples[0]
    lower, median, upper = statistics.quantiles(samples, n=4, method="inclusive")
    return median, lower, upper


def format_report(report: BenchmarkReport) -> str:
    """Format the report as lines of plain text with an aligned table."""
    machine, model = report.machine, report.model
    gpu = "gpu" in machine
    unit, scale = ("Top/s", 1e12) if gpu else ("Gop/s", 1e9)
    lines = [
        f"cnclip {report.version}, {report.date}",
        f"{machine['processor']}, {machine['cores']} cores, {machine['isa']} kernels, "
        f"torch {machine['torch']}, Python {machine['python']}",
        *([f"{machine['gpu']}, CUDA {machine['cuda']}"] if gpu else []),
        f"model {model['name']}: {model['parameters'] / 1e6:.1f} million parameters, "
        f"{model['image_flops'] / 1e9:.3g} Gop per image",
    ]
    for peak in report.peaks:
        rate = peak["flops_per_second"]
        found = f"{rate / scale:.0f} {unit}" if rate else "not supported by the processor"
        threads = "" if gpu else f", {peak['threads']} threads"
        lines.append(f"arithmetic peak {peak['precision']}{threads}: {found}")
    lines += [
        f"skipped {entry.get('precision') or entry['isa']}: {entry['reason']}"
        for entry in report.skipped
    ]
    numbers = ("precision", "threads", "batch", "median", "p25..p75", "per s", unit, "of peak")
    titles: tuple[str, ...] = ("", *numbers)
    rows = [titles, *(_cells(result, scale) for result in report.results)]
    if len({result.isa for result in report.results} - {None}) > 1:
        isas = ("kernels", *(result.isa or "" for result in report.results))
        rows = [(row[0], isa, *row[1:]) for row, isa in zip(rows, isas, strict=True)]
        titles = rows[0]
    right = [False] + [True] * (len(titles) - 1)
    return "\n".join([*lines, "", format_table(rows, right, underlined=False)])


def _cells(result: Result, operations: float) -> tuple[str, ...]:
    """The cells of a row; `operations` is the unit of operations per second."""
    rate, share, speed = result.flops_per_second, result.peak_share, result.per_second
    scale, unit = _scale(result)
    digits = _digits(result.median * scale)
    return (
        result.name,
        result.precision or "",
        str(result.threads or ""),
        str(result.batch_size or ""),
        f"{result.median * scale:.{digits}f} {unit}",
        f"{result.p25 * scale:.{digits}f}..{result.p75 * scale:.{digits}f}",
        f"{speed:.{_digits(speed)}f}" if speed else "",
        f"{rate / operations:.1f}" if rate else "",
        f"{share:.0%}" if share is not None else "",
    )


def _scale(result: Result) -> tuple[float, str]:
    if result.unit == "bytes":
        return 1e-6, "MB"
    if result.median >= 1:
        return 1, "s"
    return (1e3, "ms") if result.median >= 1e-3 else (1e6, "us")


def _digits(value: float) -> int:
    """The decimals that give at least three digits."""
    return 0 if value >= 100 else 1 if value >= 10 else 2
