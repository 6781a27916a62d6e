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
from ..environment import describe_processor
from ..errors import DeviceError
from ..models import open_archive
from ..pipelines import MultiModalEmbeddingPipeline, pipeline
from ..pipelines.builder import choose_device
from ..version import __version__
from . import inputs, start
from .flops import image_flops, text_flops
from .machine import describe_machine, forced_isa, measure_gpu_peak, measure_peak
from .report import BenchmarkReport, Result, spread

PRECISIONS = ("fp32", "bf16", "int8", "fp16")
ISAS = (
    *("serial", "avx2", "avx_vnni", "avx512", "avx512_vnni", "avx512_bf16"),
    *("neon", "neon_dotprod", "neon_i8mm", "neon_bf16"),
)
# By default, on a CPU and on a GPU.
_CHOSEN_PRECISIONS = {"cpu": ("fp32", "bf16", "int8"), "cuda": ("fp32", "bf16", "fp16")}
_CHOSEN_BATCH_SIZES = {"cpu": (1, 8, 32), "cuda": (1, 2, 4, 8, 16, 256)}
# Short texts of which a GPU embeds many at once.
_GPU_TEXTS = 1024
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

    device: str = option("cpu", "cpu, gpu (the CPU if there is none), or cuda:N")
    precisions: tuple[str, ...] | None = option(
        None,
        "precisions to measure (default: all of the device)",
        choices=PRECISIONS,
        many=True,
    )
    batch_sizes: tuple[int, ...] | None = option(
        None,
        "items per call (default: 1 8 32, on a GPU 1 2 4 8 16 256)",
        min=1,
        max=4096,
        many=True,
    )
    threads: tuple[int, ...] | None = option(
        None, "CPU threads (default: one per core)", min=1, max=1024, many=True
    )
    isas: tuple[str, ...] | None = option(
        None,
        "instruction sets to compare on a CPU (default: the best); those that it lacks are skipped",
        choices=ISAS,
        many=True,
    )
    rounds: int = option(7, "measurements of each case", min=1, max=10_000)
    seconds: float = option(120.0, "start no further round after this time", above=0)

    def __post_init__(self) -> None:
        """Check every value."""
        check_options(self)


class _Configuration(NamedTuple):
    """How a pipeline is opened."""

    precision: str
    threads: int
    isa: str | None  # None on a GPU


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
    """Measure how fast a model embeds on this machine's CPU or GPU.

    Args:
        model: As for `pipeline`; conversion of a checkpoint is not measured.
        settings: The measurements; by default all precisions that the machine supports.
        name: The model's name in the report; by default `model`.
        progress: Called with a line for each turn of a case.

    Raises:
        CnclipError: the model cannot be opened, there is no such GPU, or the machine supports none
            of the precisions.
    """
    settings = _complete(settings or Settings())
    info = open_archive(model)
    opened, skipped = _open_all(model, settings)
    peak_cases = {
        (one.precision, one.threads): _peak_case(one.precision, one.threads, settings.device)
        for one in opened
    }
    cases = [*peak_cases.values(), *_cases_without_model(info)]
    for configuration, embedder in opened.items():
        cases += _cases_of(embedder, model, settings, configuration)
    samples = _run_rounds(cases, settings, progress)
    # Other processes of the machine can only lower a peak.
    peaks = {key: max(samples[case.rows[0]]) or None for key, case in peak_cases.items()}
    return BenchmarkReport(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        version=__version__,
        machine=describe_machine(settings.device),
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


def _complete(settings: Settings) -> Settings:
    """The settings with a value for everything that depends on the machine."""
    device = choose_device(settings.device)
    kind = device.partition(":")[0]
    return dataclasses.replace(
        settings,
        device=device,
        precisions=settings.precisions or _CHOSEN_PRECISIONS[kind],
        batch_sizes=settings.batch_sizes or _CHOSEN_BATCH_SIZES[kind],
        threads=settings.threads or (usable_cores(),),
    )


def _peak_case(precision: str, threads: int, device: str) -> Case:
    row = _row(
        "arithmetic peak", unit="operations per second", precision=precision, threads=threads
    )
    if device == "cpu":
        return Case((row,), lambda: (measure_peak(precision, threads) or 0.0,))
    return Case((row,), lambda: (measure_gpu_peak(precision, device),))


def _open_all(
    model: str, settings: Settings
) -> tuple[dict[_Configuration, MultiModalEmbeddingPipeline], list[dict[str, str]]]:
    """A pipeline for each configuration; the precisions and instruction sets that were skipped."""
    opened = {}
    skipped: list[dict[str, str]] = []
    assert settings.precisions is not None and settings.threads is not None
    for isa in settings.isas or (None,):
        with forced_isa(isa):
            found = describe_processor()["isa"]
            if isa not in (None, found):
                skipped.append({"isa": str(isa), "reason": str(found)})
                continue
            name = str(found) if settings.device == "cpu" else None
            for precision in settings.precisions:
                try:
                    for threads in settings.threads:
                        opened[_Configuration(precision, threads, name)] = pipeline(
                            model=model,
                            device=settings.device,
                            precision=precision,
                            num_threads=threads,
                        )
                except DeviceError as error:
                    skipped.append({"precision": precision, "reason": error.reason})
    if not opened:
        reasons = "; ".join(entry["reason"] for entry in skipped)
        raise DeviceError(f"the machine supports none of the precisions: {reasons}")
    return opened, skipped


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
    opened_as: _Configuration,
) -> Iterator[Case]:
    """The cases of one configuration."""
    info = embedder.model.info
    architecture = info.metadata["architecture"]
    configuration: dict[str, Any] = opened_as._asdict()

    def forward(name: str, key: str, items: list[Any], **more: Any) -> Case:
        count = len(items)
        row = _row(name, batch_size=count, **configuration, **more)
        return _timed(row, lambda: embedder.forward({key: items}, batch_size=count), count)

    assert settings.batch_sizes is not None
    on_gpu, flops = settings.device != "cpu", image_flops(architecture)
    yield _start_case(model, configuration, settings.device)
    for batch_size in settings.batch_sizes:
        images = inputs.make_images(batch_size)
        yield forward(f"image {inputs.WIDTH} x {inputs.HEIGHT}", "img", images, flops=flops)
        if on_gpu:  # which waits for the cores that prepare those
            row = _row("prepared image", batch_size=batch_size, flops=flops, **configuration)
            yield _timed(row, _encode_prepared(embedder, images), batch_size)
    lots = list(itertools.product(_text_lengths(info), settings.batch_sizes))
    if on_gpu:
        lots.append((inputs.SHORT_TOKENS, _GPU_TEXTS))
    for tokens, batch_size in lots:
        texts, flops = inputs.make_texts(batch_size, tokens), text_flops(architecture, tokens)
        yield forward(f"text of {tokens} tokens", "text", texts, tokens=tokens, flops=flops)


def _encode_prepared(
    embedder: MultiModalEmbeddingPipeline, images: list[Any]
) -> Callable[[], object]:
    """A function that runs the model on images that are prepared now."""
    pixels = embedder.preprocessor.image_processor.resize(images)
    return lambda: embedder.model.encoder.encode_pixels(pixels)


def _text_lengths(info: ArchiveInfo) -> list[int]:
    return sorted({min(tokens, info.context_length) for tokens in inputs.TOKENS})


def _start_case(model: str, configuration: dict[str, Any], device: str) -> Case:
    rows = (
        _row("start to first image", **configuration),
        _row("start to first image and text", **configuration),
        _row("peak memory of that process", unit="bytes", **configuration),
    )
    precision, threads = configuration["precision"], configuration["threads"]

    def turn() -> start.Start:
        with forced_isa(configuration["isa"]):
            return start.run_once(model, precision, threads, device)

    return Case(rows, turn)


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
    parts = [row.name, row.precision, row.isa, f"{row.threads} threads" if row.threads else None]
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
