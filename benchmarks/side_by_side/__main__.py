"""cnclip compared with other ways to run the same Chinese-CLIP on this machine's CPU.

Usage: python benchmarks/side_by_side [--python ENGINE=INTERPRETER ...] [--json FILE] [...]

Engines: ModelScope's pipeline, transformers, ONNX Runtime and OpenVINO, and Hugging Face's
tokenizers for texts to token ids. Each runs in a separate process, with its own interpreter if one
is given, and with the same weights, inputs and number of threads. In every round each engine
measures each case once, in turn, while the others wait; medians are printed. An engine that cannot
run is skipped and printed with the reason. docs/en/about/benchmarks.md explains the rows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import report
from processes import Worker, WorkerError, prepare, start_once

from cnclip.benchmark import inputs, write_model_directory
from cnclip.benchmark.machine import available_cores, describe_machine
from cnclip.checkpoints.published_sizes import PUBLISHED_SIZES
from cnclip.pipelines import pipeline

# Name: the family, which decides on the interpreter. Engines that others need come first.
ENGINES = {
    "cnclip-fp32": "cnclip",
    "cnclip-bf16": "cnclip",
    "cnclip-int8": "cnclip",
    "modelscope": "modelscope",
    "transformers": "transformers",
    "onnxruntime": "onnxruntime",
    "openvino-fp32": "openvino",
    "openvino-bf16": "openvino",
    "openvino-int8": "openvino",
    "tokenizers": "tokenizers",
}
MAX_BATCHES = {"image": 8, "text": 32}
CASES: list[dict[str, Any]] = [
    {"kind": "image", "batch": 1},
    {"kind": "image", "batch": 8},
    {"kind": "text", "tokens": 12, "batch": 1},
    {"kind": "text", "tokens": 12, "batch": 32},
    {"kind": "text", "tokens": 52, "batch": 1},
    {"kind": "text", "tokens": 52, "batch": 32},
    {"kind": "preprocess", "batch": 1},
    {"kind": "tokenize", "batch": 10_000},
]


def main() -> None:
    arguments = parse_arguments()
    interpreters = dict.fromkeys(ENGINES.values(), sys.executable) | dict(arguments.python)
    os.environ |= {
        "OMP_NUM_THREADS": str(arguments.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    with data_directory(arguments.data) as data:
        os.environ["CNCLIP_CACHE"] = str(data / "cache")
        write_inputs(data, arguments)
        found = compare(data, arguments, interpreters)
    print(report.format_text(found))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if arguments.plot:
        report.plot(found, Path(arguments.plot))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="side_by_side", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), help="default: all")
    add(
        "--python",
        action="append",
        default=[],
        type=parse_interpreter,
        metavar="ENGINE=PATH",
        help=f"the interpreter for ENGINE ({', '.join(dict.fromkeys(ENGINES.values()))})",
    )
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", type=Path, help="a ModelScope model directory")
    model.add_argument(
        "--random", choices=PUBLISHED_SIZES, default="ViT-B-16", help="random weights; %(default)s"
    )
    add("--threads", type=int, default=available_cores(), help="default: %(default)s")
    add("--rounds", type=int, default=7, help="default: %(default)s")
    add("--data", type=Path, help="keep models and exports here for the next run")
    add("--json", metavar="FILE", help="write all figures")
    add("--plot", metavar="FILE", help="write a chart, .png or .svg; needs matplotlib")
    return parser.parse_args()


def parse_interpreter(value: str) -> tuple[str, str]:
    family, _, path = value.partition("=")
    if family not in ENGINES.values() or not path:
        raise argparse.ArgumentTypeError(f"expected ENGINE=PATH, got {value!r}")
    return family, path


@contextlib.contextmanager
def data_directory(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="cnclip-side-by-side-") as directory:
        yield Path(directory)


def write_inputs(data: Path, arguments: argparse.Namespace) -> None:
    """Write the model, and the inputs of all engines: images, texts, pixels and token ids."""
    model = data / "model"
    if not model.exists():
        if arguments.model:
            model.symlink_to(arguments.model.resolve())
        else:
            print(f"making {arguments.random}", file=sys.stderr)
            write_model_directory(arguments.random, model)
    embedder = pipeline(model=model, device="cpu")
    images = inputs.make_images(MAX_BATCHES["image"])
    np.save(data / "images.npy", np.stack([np.asarray(image) for image in images]))
    np.save(data / "pixels.npy", embedder.preprocess({"img": images})["img"])
    texts = {n: inputs.make_texts(MAX_BATCHES["text"], n) for n in inputs.TOKENS}
    for tokens, some in texts.items():
        np.save(data / f"ids{tokens}.npy", embedder.preprocess({"text": some})["text"][:, :tokens])
    (data / "texts.json").write_text(json.dumps(texts), encoding="ascii")
    titles = inputs.make_titles(CASES[-1]["batch"])
    (data / "titles.json").write_text(json.dumps(titles), encoding="ascii")


def compare(
    data: Path, arguments: argparse.Namespace, interpreters: dict[str, str]
) -> dict[str, Any]:
    """Start every engine, run the rounds, and return all figures."""
    skipped: dict[str, str] = {}
    samples: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name in arguments.engines:
            print(f"preparing {name}", file=sys.stderr)
            try:
                prepare(name, data, interpreters[ENGINES[name]])
                worker = Worker(name, data, interpreters[ENGINES[name]])
                stack.callback(worker.stop)
                worker.ask("load")
                workers[name] = worker
            except WorkerError as error:
                skipped[name] = str(error)
                print(f"skipped {name}: {error}", file=sys.stderr)
        agreement = compare_rows(workers, data)
        for number in range(arguments.rounds):
            # Alternate the order, so that no engine always follows the same other engine.
            order = list(workers) if number % 2 == 0 else list(reversed(workers))
            for name in order:
                report_progress(number, arguments.rounds, f"start, {name}")
                if "start" in workers[name].abilities:
                    for what, value in start_once(workers[name]).items():
                        samples[what][name].append(value)
            for case in CASES:
                for name in order:
                    if case["kind"] in workers[name].abilities:
                        what = report.describe_case(case)
                        report_progress(number, arguments.rounds, f"{what}, {name}")
                        samples[what][name].append(workers[name].ask("time", **case)["seconds"])
        versions = {name: worker.versions for name, worker in workers.items()}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "model": str(arguments.model or f"{arguments.random} with random weights"),
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "versions": versions,
        "skipped": skipped,
        "agreement": agreement,
        "samples": {what: dict(engines) for what, engines in samples.items()},
    }


def report_progress(number: int, rounds: int, what: str) -> None:
    print(f"round {number + 1} of {rounds}: {what}", file=sys.stderr, flush=True)


def compare_rows(workers: dict[str, Worker], data: Path) -> dict[str, dict[str, float]]:
    """Compare each engine's embeddings with cnclip's in fp32."""
    rows = {}
    for name, worker in workers.items():
        if "image" in worker.abilities:
            path = data / f"rows-{name}.npy"
            worker.ask("rows", path=str(path))
            rows[name] = np.load(path).astype(np.float64)
    ours = rows.get("cnclip-fp32")
    if ours is None:
        return {}
    return {
        name: {
            "largest_difference": float(np.abs(ours - theirs).max()),
            "lowest_cosine": float((ours * theirs).sum(-1).min()),
        }
        for name, theirs in rows.items()
    }


if __name__ == "__main__":
    main()
