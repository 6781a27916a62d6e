"""The default number of threads, compared with fixed ones, on a busy or limited machine.

    python benchmarks/busy_machine.py [--model emoji-cn] [--neighbours 0 1 2] [--quota 1]
        [--seconds S] [--rounds N]

Each neighbour is a process that never waits. --quota also measures in a control group (version 1 or
2, which needs root) that may use as many cores. Each measurement is a process that embeds for some
seconds with the default or with a fixed number of threads; they take turns. Medians of items per
second are printed, and the ratio of the default to the best fixed number: 1 is as good.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

CONTROL = Path("/sys/fs/cgroup")
PERIOD = 100_000  # microseconds


def measure(model: str, threads: int | None, seconds: float) -> dict[str, float]:
    """Items per second of this process."""
    from cnclip import pipeline

    embedder = pipeline(model=model, device="cpu", num_threads=threads)
    random = np.random.default_rng(0)
    images = [random.integers(0, 255, (480, 640, 3), dtype=np.uint8) for _ in range(16)]
    works = {
        "images": ({"img": images}, len(images)),
        "a text": ({"text": ["戴眼镜的猫"]}, 1),
        "32 texts": ({"text": ["戴眼镜的猫"] * 32}, 32),
    }
    rates = {}
    for name, (work, items) in works.items():
        embedder.forward(work)
        begin, count = time.perf_counter(), 0
        while time.perf_counter() - begin < seconds:
            embedder.forward(work)
            count += items
        rates[name] = count / (time.perf_counter() - begin)
    return rates


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


def run(arguments: argparse.Namespace, threads: int | None, group: Path | None) -> dict[str, float]:
    """`measure` in a new process, in a control group if one is given."""
    command = [sys.executable, __file__, "--worker", "--model", arguments.model]
    command += ["--seconds", str(arguments.seconds)]
    command += [] if threads is None else ["--threads", str(threads)]
    command += [] if group is None else ["--group", str(group)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    rates: dict[str, float] = json.loads(done.stdout)
    return rates


def compare(arguments: argparse.Namespace, title: str, group: Path | None = None) -> None:
    choices = [None, *range(1, len(os.sched_getaffinity(0)) + 1)]
    samples = [[run(arguments, one, group) for one in choices] for _ in range(arguments.rounds)]
    print(title)
    for name in samples[0][0]:
        medians = [
            statistics.median(turn[index][name] for turn in samples)
            for index in range(len(choices))
        ]
        fixed = "  ".join(
            f"{threads} threads {rate:8.1f}/s"
            for threads, rate in zip(choices[1:], medians[1:], strict=True)
        )
        ratio = medians[0] / max(medians[1:])
        print(f"  {name:9} default {medians[0]:8.1f}/s  {fixed}  ratio {ratio:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="emoji-cn")
    parser.add_argument("--neighbours", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--quota", type=float, nargs="*", default=[])
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--group", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        if arguments.group is not None:
            arguments.group.write_text(str(os.getpid()))
        json.dump(measure(arguments.model, arguments.threads, arguments.seconds), sys.stdout)
        return
    for count in arguments.neighbours:
        with neighbours(count):
            compare(arguments, f"{count} busy neighbours")
    for cores in arguments.quota:
        with control_group(cores) as group:
            compare(arguments, f"a quota of {cores:g} cores", group)


if __name__ == "__main__":
    main()
