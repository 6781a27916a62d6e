"""Exact search between 30,000 images and 150,000 texts, in both directions, and FAISS's.

    python benchmarks/retrieval_search.py [--images N] [--texts N] [--columns D] [--rounds N]

Each round runs each side once, in turns, in a separate process. Medians are printed, with the peak
memory of the process, including its 370 MB of vectors. FAISS is skipped if it is not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

K = 10


def search(side: str, images: int, texts: int, columns: int) -> dict[str, float]:
    import numpy as np

    rng = np.random.default_rng(0)

    def unit(count: int) -> np.ndarray:
        rows = rng.standard_normal((count, columns), dtype=np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows

    a, b = unit(texts), unit(images)
    if side == "faiss":
        import faiss

        begin = time.perf_counter()
        for queries, candidates in ((a, b), (b, a)):
            index = faiss.IndexFlatIP(columns)
            index.add(candidates)
            index.search(queries, K)
    else:
        from cnclip.evaluate import mutual_top_k

        begin = time.perf_counter()
        mutual_top_k(a, b, K)
    seconds = time.perf_counter() - begin
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"seconds": seconds, "bytes": float(int(status["VmHWM"].split()[0]) << 10)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=int, default=30_000)
    parser.add_argument("--texts", type=int, default=150_000)
    parser.add_argument("--columns", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = (options.images, options.texts, options.columns)
    if options.side:
        print(json.dumps(search(options.side, *sizes)))
        return
    sides = ["cnclip"] + (["faiss"] if importlib.util.find_spec("faiss") else [])
    samples: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(options.rounds):
        for side in sides:
            names = ("images", "texts", "columns")
            flags = [f"--{name}={size}" for name, size in zip(names, sizes, strict=True)]
            done = subprocess.run(
                [sys.executable, __file__, "--side", side, *flags],
                check=True,
                stdout=subprocess.PIPE,
            )
            samples[side].append(json.loads(done.stdout))
    seconds = {
        side: statistics.median(s["seconds"] for s in some) for side, some in samples.items()
    }
    for side, some in samples.items():
        peak = max(sample["bytes"] for sample in some)
        ratio = f", {seconds[side] / seconds['cnclip']:.2f}x" if side != "cnclip" else ""
        print(f"{side:8} {seconds[side]:7.1f} s{ratio}, peak {peak / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
