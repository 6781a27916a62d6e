"""ONNX Runtime on the files of `cnclip convert --to onnx`, compared with cnclip.

    python benchmarks/onnx_runtime.py [--model MODEL | --random ViT-B-16] [--threads N]
        [--rounds N] [--data FOLDER]

Both are measured in one process, in turns; medians of the rounds are printed. cnclip gets open
images of 640 x 480 and strings, ONNX Runtime their pixels and ids, prepared before: without padding
and, as in programs that always pad, with as many columns as the context length. Needs the extra
`onnx`.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from cnclip import pipeline
from cnclip._cores import usable_cores
from cnclip._tables import format_table
from cnclip.benchmark import write_model_directory
from cnclip.benchmark.inputs import make_images, make_texts
from cnclip.benchmark.machine import describe_machine
from cnclip.checkpoints.published_sizes import PUBLISHED_SIZES
from cnclip.convert import convert

TOKENS = 12
# What the calls in a pair compute, and the most that their rows may differ.
Case = tuple[str, Callable[[], Any], Callable[[], Any]]
TOLERANCE = 1e-5


def main() -> None:
    arguments = parse_arguments()
    with folder_of(arguments.data) as folder:
        model = arguments.model or folder / arguments.random
        if not arguments.model and not model.exists():
            write_model_directory(arguments.random, model)
        if not (folder / "onnx").exists():
            convert(model, folder / "onnx", to="onnx")
        cases = make_cases(model, folder / "onnx", arguments.threads)
        print(describe_machine("cpu"))
        print(f"{model.name}, {arguments.threads} threads, onnxruntime {onnxruntime.__version__}")
        print(format_table(measure(cases, arguments.rounds), [False, True, True, True, True]))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", type=Path, help="a checkpoint or an archive")
    model.add_argument("--random", choices=PUBLISHED_SIZES, default="ViT-B-16")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--data", type=Path, help="keep the model and the files here")
    return parser.parse_args()


@contextlib.contextmanager
def folder_of(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="cnclip-onnx-") as folder:
        yield Path(folder)


def make_cases(model: Path, folder: Path, threads: int) -> list[Case]:
    """Pairs of calls: cnclip's and ONNX Runtime's."""
    embedder = pipeline(model=model, device="cpu", num_threads=threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin after a run would slow down the next call of cnclip.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    image, text = (
        onnxruntime.InferenceSession(
            folder / f"{tower}.onnx", options, providers=["CPUExecutionProvider"]
        )
        for tower in ("image", "text")
    )

    def case(name: str, key: str, items: dict[str, Any], session: Any, inputs: Any) -> Case:
        feeds = {session.get_inputs()[0].name: np.ascontiguousarray(inputs)}
        return (
            name,
            lambda: embedder.forward(items)[key],
            lambda: session.run(None, feeds)[0],
        )

    cases = []
    for count in (1, 8):
        images = {"img": make_images(count)}
        pixels = embedder.preprocess(images)["img"]
        cases.append(case(f"images: {count}", "img_embedding", images, image, pixels))
    for count in (1, 32):
        texts = {"text": make_texts(count, TOKENS)}
        ids = embedder.preprocess(texts)["text"]
        name = f"texts of {TOKENS} tokens: {count}"
        for title, inputs in (
            (name, ids[:, :TOKENS]),
            (f"{name}, padded to {ids.shape[1]}", ids),
        ):
            cases.append(case(title, "text_embedding", texts, text, inputs))
    for name, ours, theirs in cases:  # the first calls allocate
        difference = float(np.abs(ours() - theirs()).max())
        assert difference < TOLERANCE, f"{name}: rows differ by {difference}"
    return cases


def measure(cases: list[Case], rounds: int) -> list[tuple[str, ...]]:
    """Rows of a table: milliseconds of both, and their ratio with the least and the largest."""
    rows: list[tuple[str, ...]] = [("", "cnclip", "ONNX Runtime", "ratio", "ratios of the rounds")]
    times: dict[str, list[tuple[float, float]]] = {name: [] for name, _, _ in cases}
    for number in range(rounds):
        for name, ours, theirs in cases:
            order = (ours, theirs) if number % 2 == 0 else (theirs, ours)
            taken = {call: seconds_of(call) for call in order}
            times[name].append((taken[ours], taken[theirs]))
    for name, pairs in times.items():
        first, second = (statistics.median(one) for one in zip(*pairs, strict=True))
        ratios = [theirs / ours for ours, theirs in pairs]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        rows.append(
            (
                name,
                f"{first * 1e3:.1f} ms",
                f"{second * 1e3:.1f} ms",
                f"{second / first:.2f}",
                spread,
            )
        )
    return rows


def seconds_of(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
