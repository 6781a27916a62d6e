"""Opening a model with and without the cache of prepared models, and the memory of processes.

    python benchmarks/opening.py [--random ViT-B-16 | --archive FILE] [--precision fp32]
        [--processes 4] [--rounds 5]

Each measurement is a new process that opens an archive, of random weights or `--archive`, which is
in the page cache, and embeds one image and one text. Medians of the rounds, in which both take
turns:

- open: `pipeline(...)` once torch's libraries are loaded;
- first: from the start of the process to the embeddings of both.

Then as many processes as asked for embed at the same time, and the sum of their proportional set
sizes (PSS) is compared with that of one: memory that processes share counts once. They are started
one by one, or forked by a process that has loaded torch's libraries (`open_engine`), which share
what these allocate as well.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cnclip.benchmark import random_archive
from cnclip.checkpoints.published_sizes import PUBLISHED_SIZES
from cnclip.engine import open_engine

# Prints a line with its times, then waits until its input is closed; so do its forks.
CHILD = """
import json, os, sys, time
import numpy as np
from cnclip import pipeline
from cnclip.engine import open_engine
archive, precision, begin, workers = sys.argv[1:]
open_engine()
for _ in range(1, int(workers)):
    if os.fork() == 0:
        break
before = time.monotonic()
opened = pipeline(model=archive, device="cpu", precision=precision)
after = time.monotonic()
image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
opened.forward({"img": image, "text": "戴眼镜的猫"})
times = {"open": after - before, "first": time.monotonic() - float(begin), "process": os.getpid()}
os.write(1, (json.dumps(times) + "\\n").encode())
sys.stdin.read()
"""


def start(archive: Path, precision: str, setting: str, workers: int = 1) -> subprocess.Popen[str]:
    arguments = [str(archive), precision, repr(time.monotonic()), str(workers)]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments],
        env={**os.environ, "CNCLIP_PREPARED": setting},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def times_of(process: subprocess.Popen[str]) -> dict[str, float]:
    assert process.stdout is not None
    times: dict[str, float] = json.loads(process.stdout.readline())
    return times


def end(process: subprocess.Popen[str]) -> None:
    process.communicate()


def proportional_bytes(process: float) -> int:
    rollup = Path(f"/proc/{process:.0f}/smaps_rollup").read_text()
    kilobytes = next(line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:"))
    return int(kilobytes) * 1024


def measure_once(archive: Path, precision: str, setting: str) -> dict[str, float]:
    process = start(archive, precision, setting)
    times = times_of(process)
    end(process)
    return times


def measure_memory(archive: Path, precision: str, setting: str, count: int, forked: bool) -> int:
    """The sum of the processes' PSS."""
    workers = count if forked else 1
    started = [start(archive, precision, setting, workers) for _ in range(count // workers)]
    times = [times_of(process) for process in started for _ in range(workers)]
    total = sum(proportional_bytes(one["process"]) for one in times)
    for process in started:
        end(process)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--random", choices=PUBLISHED_SIZES, default="ViT-B-16")
    parser.add_argument("--archive", type=Path)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    precision = arguments.precision
    given = contextlib.nullcontext(arguments.archive)
    with (
        given if arguments.archive else random_archive(arguments.random) as archive,
        tempfile.TemporaryDirectory(prefix="cnclip-opening-") as cache,
    ):
        os.environ["CNCLIP_ENGINE"] = open_engine().path  # which may be in the user's cache
        os.environ["CNCLIP_CACHE"] = cache
        measure_once(archive, precision, "never")  # checks the archive, which is done once
        writing = measure_once(archive, precision, "always")
        time.sleep(3)  # a file just written is checked again
        checking = measure_once(archive, precision, "always")
        print(f"{archive.name} {precision}; first opening {writing['open']:.2f} s, which writes")
        print(f"the file; second {checking['open']:.2f} s, which compares it with its checksum")
        rounds: dict[str, list[dict[str, float]]] = {"never": [], "always": []}
        for _ in range(arguments.rounds):
            for setting, times in rounds.items():
                times.append(measure_once(archive, precision, setting))
        for setting, name in (("never", "without the cache"), ("always", "with the cache")):
            for what in ("open", "first"):
                seconds = [times[what] for times in rounds[setting]]
                print(
                    f"{name}: {what} {statistics.median(seconds):.3f} s, at best {min(seconds):.3f}"
                )
            count = arguments.processes
            one, several, forks = (
                measure_memory(archive, precision, setting, number, forked)
                for number, forked in ((1, False), (count, False), (count, True))
            )
            print(
                f"{name}: PSS of one process {one / 1e6:.0f} MB, of {count} {several / 1e6:.0f} MB "
                f"({several / one:.2f} times), of {count} forks {forks / 1e6:.0f} MB "
                f"({forks / one:.2f} times)"
            )


if __name__ == "__main__":
    main()
