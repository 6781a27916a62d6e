"""The default number of threads, compared with fixed ones, on a busy or limited machine.

    python benchmarks/busy_machine.py [--model emoji-cn] [--neighbours 0 1 2] [--quota 1 1.5]
        [--seconds S] [--rounds N]

Each neighbour is a process that never waits. --quota also measures in a control group (version 1 or
2, which needs root) that may use as many cores. A process with the default and one for each fixed
number of threads take turns, in random order, so that all see the same changes of the machine. Each
round has new processes: where a process got its memory changes its speed by a tenth. Medians of
items per second are printed, and the ratio of the default to the best fixed number: 1 is as good.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

CONTROL = Path("/sys/fs/cgroup")
PERIOD = 100_000  # microseconds


WARM_UP = 0.25  # seconds before each measurement; the use of cores is known after 0.1
WORKS = {"images": 16, "a text": 1, "32 texts": 32}  # and their items


def work(model: str, threads: int | None, seconds: float) -> None:
    """For each line of stdin, the name of a work, print this process's items per second of it."""
    from cnclip import pipeline

    embedder = pipeline(model=model, device="cpu", num_threads=threads)
    numbers = np.random.default_rng(0)
    images = [numbers.integers(0, 255, (480, 640, 3), dtype=np.uint8) for _ in range(16)]
    inputs: dict[str, dict[str, Any]] = {
        "images": {"img": images},
        "a text": {"text": ["戴眼镜的猫"]},
        "32 texts": {"text": ["戴眼镜的猫"] * 32},
    }
    print("ready", flush=True)
    for line in sys.stdin:
        name = line.strip()
        for duration in (WARM_UP, seconds):
            begin, count = time.perf_counter(), 0
            while time.perf_counter() - begin < duration:
                embedder.forward(inputs[name])
                count += WORKS[name]
            rate = count / (time.perf_counter() - begin)
        print(rate, flush=True)


@contextlib.contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Keep as many cores busy as there are neighbours."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@contextlib.contextmanager
def control_group(cores: float) -> Iterator[Path]:
    """A control group with a quota; the file in it that takes process ids."""
    version_1 = CONTROL / "cpu"
    group = (version_1 if version_1.is_dir() else CONTROL) / f"cnclip-benchmark-{os.getpid()}"
    group.mkdir()
    try:
        if version_1.is_dir():
            (group / "cpu.cfs_period_us").write_text(str(PERIOD))
            (group / "cpu.cfs_quota_us").write_text(str(int(cores * PERIOD)))
        else:
            (group / "cpu.max").write_text(f"{int(cores * PERIOD)} {PERIOD}")
        yield group / "cgroup.procs"
    finally:
        group.rmdir()


Worker = subprocess.Popen[str]


@contextlib.contextmanager
def workers(arguments: argparse.Namespace, group: Path | None) -> Iterator[dict[str, Worker]]:
    """Processes that `work`, by their number of threads; in a control group if one is given."""
    names = ["default", *map(str, range(1, len(os.sched_getaffinity(0)) + 1))]
    started: dict[str, Worker] = {}
    try:
        for name in names:
            command = [sys.executable, __file__, "--worker", "--model", arguments.model]
            command += ["--seconds", str(arguments.seconds)]
            command += [] if name == "default" else ["--threads", name]
            command += [] if group is None else ["--group", str(group)]
            pipe = subprocess.PIPE
            started[name] = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        for worker in started.values():
            answer(worker)
        yield started
    finally:
        for worker in started.values():
            worker.kill()
            worker.wait()


def answer(worker: Worker, line: str = "") -> str:
    """Send a line, and return the worker's next one."""
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write(line)
    worker.stdin.flush()
    answered = worker.stdout.readline()
    if not answered:
        raise SystemExit("a worker has ended")
    return answered


def compare(arguments: argparse.Namespace, title: str, group: Path | None, count: int) -> None:
    """Measure next to `count` neighbours, and print one line for each work."""
    print(title)
    rates: dict[str, dict[str, list[float]]] = {name: {} for name in WORKS}
    for _ in range(arguments.rounds):
        with workers(arguments, group) as started, neighbours(count):
            turns = random.sample(list(started), len(started))
            for name, number in itertools.product(WORKS, turns):
                rate = float(answer(started[number], f"{name}\n"))
                rates[name].setdefault(number, []).append(rate)
    for name, found in rates.items():
        medians = {number: statistics.median(found[number]) for number in sorted(found)}
        default = medians.pop("default")
        fixed = "  ".join(f"{number}: {rate:8.1f}/s" for number, rate in medians.items())
        ratio = default / max(medians.values())
        print(f"  {name:9} default {default:8.1f}/s  {fixed}  ratio {ratio:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji-cn")
    parser.add_argument("--neighbours", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--quota", type=float, nargs="*", default=[])
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--group", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        if arguments.group is not None:
            arguments.group.write_text(str(os.getpid()))
        work(arguments.model, arguments.threads, arguments.seconds)
        return
    for count in arguments.neighbours:
        compare(arguments, f"{count} busy neighbours", None, count)
    for cores in arguments.quota:
        with control_group(cores) as group:
            compare(arguments, f"a quota of {cores:g} cores", group, 0)


if __name__ == "__main__":
    main()
