"""cnclip compared with other ways to run the same Chinese-CLIP on this machine's CPU or GPU.

Usage: python benchmarks/side_by_side [--python ENGINE=INTERPRETER ...] [--json FILE] [...]

Engines: ModelScope's pipeline, transformers, ONNX Runtime and OpenVINO, and Hugging Face's
tokenizers for texts to token ids. Each runs in a separate process, with its own interpreter if one
is given, and with the same weights, inputs and number of threads. In every round each engine
measures each case once, in turn, while the others wait; medians are printed. An engine that cannot
run is skipped and printed with the reason. docs/en/about/benchmarks.md explains the rows.
With --isa avx2 all engines are held to AVX2, as on a processor without AVX-512.
With --device cuda:N the engines are cnclip and transformers, the latter also compiled.
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

from cnclip._cores import usable_cores
from cnclip.benchmark import inputs, write_model_directory
from cnclip.benchmark.machine import describe_machine
from cnclip.checkpoints.published_sizes import PUBLISHED_SIZES
from cnclip.environment import describe_processor
from cnclip.pipelines import pipeline

# Name: the family, which decides on the interpreter. Engines that others need come first.
ENGINES = {
    "cnclip-fp32": "cnclip",
    "cnclip-bf16": "cnclip",
    "cnclip-int8": "cnclip",
    "cnclip-fp16": "cnclip",
    "modelscope": "modelscope",
    "transformers": "transformers",
    "transformers-bf16": "transformers",
    "transformers-fp16": "transformers",
    "transformers-bf16-compiled": "transformers",
    "onnxruntime": "onnxruntime",
    "openvino-fp32": "openvino",
    "openvino-bf16": "openvino",
    "openvino-int8": "openvino",
    "tokenizers": "tokenizers",
}
TITLES = 10_000
# What holds each library to an instruction set: cnclip, torch's own kernels, oneDNN in torch and in
# OpenVINO, MKL in torch. ONNX Runtime has no such setting.
ISA_VARIABLES = {
    "avx2": {
        "CNCLIP_FORCE_ISA": "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    }
}
NOT_HELD = ("onnxruntime",)
CPU_ENGINES = ["cnclip-fp32", "cnclip-bf16", "cnclip-int8", "modelscope", "transformers"]
CPU_ENGINES += [name for name in ENGINES if name.startswith(("onnx", "openvino", "tokenizers"))]
GPU_ENGINES = ["cnclip-fp32", "cnclip-bf16", "cnclip-fp16"]
GPU_ENGINES += [name for name in ENGINES if name.startswith("transformers")]
CASES: list[dict[str, Any]] = [
    {"kind": "image", "batch": 1},
    {"kind": "image", "batch": 8},
    {"kind": "text", "tokens": 12, "batch": 1},
    {"kind": "text", "tokens": 12, "batch": 32},
    {"kind": "text", "tokens": 52, "batch": 1},
    {"kind": "text", "tokens": 52, "batch": 32},
    {"kind": "preprocess", "batch": 1},
    {"kind": "tokenize", "batch": TITLES},
]
GPU_CASES: list[dict[str, Any]] = [
    {"kind": "prepared", "batch": 1},
    {"kind": "prepared", "batch": 256},
    {"kind": "image", "batch": 256},
    {"kind": "text", "tokens": 12, "batch": 1},
    {"kind": "text", "tokens": 12, "batch": 1024},
    {"kind": "text", "tokens": 52, "batch": 256},
]


def main() -> None:
    arguments = parse_arguments()
    on_gpu = arguments.device != "cpu"
    if arguments.engines is None:
        arguments.engines = GPU_ENGINES if on_gpu else CPU_ENGINES
    cases = GPU_CASES if on_gpu else CASES
    own_isa = str(describe_processor()["isa"])
    skipped = hold_to(arguments.isa, own_isa)
    interpreters = dict.fromkeys(ENGINES.values(), sys.executable) | dict(arguments.python)
    os.environ |= {
        "OMP_NUM_THREADS": str(arguments.threads),
        "SIDE_BY_SIDE_DEVICE": arguments.device,
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    with data_directory(arguments.data) as data:
        os.environ["CNCLIP_CACHE"] = str(data / "cache")
        write_inputs(data, arguments, cases)
        found = compare(data, arguments, interpreters, cases, skipped)
    print(report.format_text(found))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if arguments.plot:
        report.plot(found, Path(arguments.plot))


def hold_to(isa: str | None, own_isa: str) -> dict[str, str]:
    """Set the variables that hold the engines to an instruction set.

    Returns:
        The families of engines that cannot be held to it, and the reason.
    """
    if isa is None:
        return {}
    os.environ |= ISA_VARIABLES[isa]
    if own_isa == isa:
        return {}
    reason = f"it has no setting that holds it to {isa} on a processor with {own_isa}"
    return dict.fromkeys(NOT_HELD, reason)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="side_by_side", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--engines", nargs="+", choices=ENGINES, help="default: all of the device")
    add("--device", default="cpu", help="cpu (default) or cuda:N")
    add("--isa", choices=ISA_VARIABLES, help="hold all engines to this instruction set")
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
    add("--threads", type=int, default=usable_cores(), help="default: %(default)s")
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


def write_inputs(data: Path, arguments: argparse.Namespace, cases: list[dict[str, Any]]) -> None:
    """Write the model, and the inputs of all engines: images, texts, pixels and token ids."""
    model = data / "model"
    if not model.exists():
        if arguments.model:
            model.symlink_to(arguments.model.resolve())
        else:
            print(f"making {arguments.random}", file=sys.stderr)
            write_model_directory(arguments.random, model)
    embedder = pipeline(model=model, device="cpu")
    most = {
        kind: max([one["batch"] for one in cases if one["kind"] == kind] + [least])
        for kind, least in (("image", 8), ("text", 32))
    }
    images = inputs.make_images(most["image"])
    np.save(data / "images.npy", np.stack([np.asarray(image) for image in images]))
    np.save(data / "pixels.npy", embedder.preprocess({"img": images})["img"])
    texts = {n: inputs.make_texts(most["text"], n) for n in inputs.TOKENS}
    for tokens, some in texts.items():
        np.save(data / f"ids{tokens}.npy", embedder.preprocess({"text": some})["text"][:, :tokens])
    (data / "texts.json").write_text(json.dumps(texts), encoding="ascii")
    titles = inputs.make_titles(TITLES)
    (data / "titles.json").write_text(json.dumps(titles), encoding="ascii")


def compare(
    data: Path,
    arguments: argparse.Namespace,
    interpreters: dict[str, str],
    cases: list[dict[str, Any]],
    not_held: dict[str, str],
) -> dict[str, Any]:
    """Start every engine, run the rounds, and return all figures."""
    skipped: dict[str, str] = {}
    samples: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name in arguments.engines:
            if (reason := not_held.get(ENGINES[name])) is not None:
                skipped[name] = reason
                continue
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
            for case in cases:
                for name in order:
                    if case["kind"] in workers[name].abilities:
                        what = report.describe_case(case)
                        report_progress(number, arguments.rounds, f"{what}, {name}")
                        samples[what][name].append(workers[name].ask("time", **case)["seconds"])
        versions = {name: worker.versions for name, worker in workers.items()}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(arguments.device),
        "model": str(arguments.model or f"{arguments.random} with random weights"),
        "threads": arguments.threads,
        "isa": arguments.isa,
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
        if {"image", "prepared"} & set(worker.abilities):
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
