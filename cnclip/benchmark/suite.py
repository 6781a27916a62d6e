"""Runs the cases in turns and collects their times."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from .. import _core
from .._cores import usable_cores
from .._options import check_options, option
from ..archive import ArchiveInfo
from ..errors import DeviceError
from ..models import open_archive
from ..pipelines import MultiModalEmbeddingPipeline, pipeline
from ..version import __version__
from . import inputs, start
from .flops import image_flops, text_flops
from .machine import describe_machine, measure_peak
from .report import BenchmarkReport, Result, spread

PRECISIONS = ("fp32", "bf16", "int8")
TITLES = 1000
# A turn repeats its timed call for this long, so that short calls are timed more than once.
_TURN_SECONDS = 0.1


@dataclass(frozen=True)
class Settings:
    """The measurements of a run, and how often they are repeated.

    `cnclip bench --help` describes each option.

    Raises:
        InputTypeError: a value has another type; names the option.
        InvalidInputError: a value is not allowed; names the option.
    """

    precisions: tuple[str, ...] = option(
        PRECISIONS, "precisions to measure", choices=PRECISIONS, many=True
    )
    batch_sizes: tuple[int, ...] = option((1, 8, 32), "items per call", min=1, max=4096, many=True)
    threads: tuple[int, ...] | None = option(
        None, "CPU threads (default: one per core)", min=1, max=1024, many=True
    )
    rounds: int = option(7, "measurements of each case", min=1, max=10_000)
    seconds: float = option(120.0, "start no further round after this time", above=0)

    def __post_init__(self) -> None:
        """Check every value."""
        check_options(self)


class Case(NamedTuple):
    """Something to measure. `turn` measures it once and returns a value for each of `rows`."""

    rows: tuple[Result, ...]  # without values
    turn: Callable[[], tuple[float, ...]]


def run_benchmark(
    model: str,
    settings: Settings | None = None,
    *,
    name: str | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> BenchmarkReport:
    """Measure how fast a model embeds on this machine's CPU.

    Args:
        model: As for `pipeline`; conversion of a checkpoint is not measured.
        settings: The measurements; by default all precisions that the machine supports.
        name: The model's name in the report; by default `model`.
        progress: Called with a line for each turn of a case.

    Raises:
        CnclipError: the model cannot be opened, or the machine supports none of the precisions.
    """
    settings = settings or Settings()
    if settings.threads is None:
        settings = dataclasses.replace(settings, threads=(usable_cores(),))
    info = open_archive(model)
    opened, skipped = _open_all(model, settings)
    peak_cases = {key: _peak_case(*key) for key in opened}
    cases = [*peak_cases.values(), *_cases_without_model(info)]
    for (precision, threads), embedder in opened.items():
        cases += _cases_of(embedder, model, settings, precision, threads)
    samples = _run_rounds(cases, settings, progress)
    # Other processes of the machine can only lower a peak.
    peaks = {key: max(samples[case.rows[0]]) or None for key, case in peak_cases.items()}
    return BenchmarkReport(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
        machine=describe_machine(),
        model=_describe_model(name or model, info),
        settings=dataclasses.asdict(settings),
        peaks=[
            {"precision": precision, "threads": threads, "flops_per_second": rate}
            for (precision, threads), rate in peaks.items()
        ],
        results=[
            _with_values(row, samples[row], peaks)
            for case in cases[len(peak_cases) :]
            for row in case.rows
        ],
        skipped=skipped,
    )


def _peak_case(precision: str, threads: int) -> Case:
    row = _row(
        "arithmetic peak", unit="operations per second", precision=precision, threads=threads
    )
    return Case((row,), lambda: (measure_peak(precision, threads) or 0.0,))


def _open_all(
    model: str, settings: Settings
) -> tuple[dict[tuple[str, int], MultiModalEmbeddingPipeline], list[dict[str, str]]]:
    """A pipeline for each precision and number of threads; the precisions that were skipped."""
    opened = {}
    skipped: dict[str, str] = {}
    assert settings.threads is not None
    for precision, threads in itertools.product(settings.precisions, settings.threads):
        if precision in skipped:
            continue
        try:
            opened[precision, threads] = pipeline(
                model=model, device="cpu", precision=precision, num_threads=threads
            )
        except DeviceError as error:
            skipped[precision] = error.reason
    if not opened:
        raise DeviceError(
            f"the machine supports none of the precisions: {'; '.join(skipped.values())}"
        )
    return opened, [{"precision": p, "reason": reason} for p, reason in skipped.items()]


def _cases_without_model(info: ArchiveInfo) -> Iterator[Case]:
    images, titles = inputs.make_images(1), inputs.make_titles(TITLES)
    processor = _core.ImageProcessor(info.resolution, info.mean, info.std)
    tokenizer = _core.Tokenizer(info.vocabulary)
    size = f"{inputs.WIDTH} x {inputs.HEIGHT}"
    yield _timed(
        _row(f"preprocessing, image {size}", threads=1), lambda: processor.process(images), 1
    )
    yield _timed(
        _row("tokenizing, title", threads=1),
        lambda: tokenizer.encode(titles, info.context_length),
        TITLES,
    )


def _cases_of(
    embedder: MultiModalEmbeddingPipeline,
    model: str,
    settings: Settings,
    precision: str,
    threads: int,
) -> Iterator[Case]:
    """The cases of one precision and number of threads."""
    info = embedder.model.info
    architecture = info.metadata["architecture"]
    configuration: dict[str, Any] = {"precision": precision, "threads": threads}

    def forward(name: str, key: str, items: list[Any], **more: Any) -> Case:
        count = len(items)
        row = _row(name, batch_size=count, **configuration, **more)
        return _timed(row, lambda: embedder.forward({key: items}, batch_size=count), count)

    yield _start_case(model, configuration)
    for batch_size in settings.batch_sizes:
        images, flops = inputs.make_images(batch_size), image_flops(architecture)
        yield forward(f"image {inputs.WIDTH} x {inputs.HEIGHT}", "img", images, flops=flops)
    for tokens, batch_size in itertools.product(_text_lengths(info), settings.batch_sizes):
        texts, flops = inputs.make_texts(batch_size, tokens), text_flops(architecture, tokens)
        yield forward(f"text of {tokens} tokens", "text", texts, tokens=tokens, flops=flops)


def _text_lengths(info: ArchiveInfo) -> list[int]:
    return sorted({min(tokens, info.context_length) for tokens in inputs.TOKENS})


def _start_case(model: str, configuration: dict[str, Any]) -> Case:
    rows = (
        _row("start to first image", **configuration),
        _row("start to first image and text", **configuration),
        _row("peak memory of that process", unit="bytes", **configuration),
    )
    precision, threads = configuration["precision"], configuration["threads"]
    return Case(rows, lambda: start.run_once(model, precision, threads))


def _row(name: str, *, unit: str = "seconds", **configuration: Any) -> Result:
    return Result(name, unit, 0.0, 0.0, 0.0, 0, **configuration)


def _timed(row: Result, call: Callable[[], object], items: int) -> Case:
    """A case whose turn calls once untimed, then repeatedly, and returns seconds per item."""

    def turn() -> tuple[float, ...]:
        call()
        calls, begin = 0, time.perf_counter()
        while True:
            call()
            calls += 1
            elapsed = time.perf_counter() - begin
            if elapsed >= _TURN_SECONDS:
                return (elapsed / calls / items,)

    return Case((row,), turn)


def _run_rounds(
    cases: list[Case], settings: Settings, progress: Callable[[str], None]
) -> dict[Result, list[float]]:
    """Run every case once per round, so that a change in the machine's speed affects all alike."""
    samples: dict[Result, list[float]] = defaultdict(list)
    begin = time.monotonic()
    for number in range(1, settings.rounds + 1):
        if number > 1 and time.monotonic() - begin > settings.seconds:
            progress(
                f"time limit of {settings.seconds:g} seconds reached after {number - 1} rounds"
            )
            break
        for case in cases:
            progress(f"round {number} of {settings.rounds}: {_describe(case.rows[0])}")
            for row, value in zip(case.rows, case.turn(), strict=True):
                samples[row].append(value)
    return samples


def _describe(row: Result) -> str:
    parts = [row.name, row.precision, f"{row.threads} threads" if row.threads else None]
    parts.append(f"batch {row.batch_size}" if row.batch_size else None)
    return ", ".join(filter(None, parts))


def _with_values(
    row: Result, samples: list[float], peaks: dict[tuple[str, int], float | None]
) -> Result:
    median, p25, p75 = spread(samples)
    peak = peaks.get((row.precision or "", row.threads or 0))
    share = row.flops / median / peak if row.flops and peak else None
    return dataclasses.replace(
        row, median=median, p25=p25, p75=p75, samples=len(samples), peak_share=share
    )


def _describe_model(name: str, info: ArchiveInfo) -> dict[str, Any]:
    architecture = info.metadata["architecture"]
    return {
        "name": name,
        "parameters": info.metadata["parameters"],
        "architecture": architecture,
        "image_flops": image_flops(architecture),
        "text_flops": {str(n): text_flops(architecture, n) for n in _text_lengths(info)},
    }
