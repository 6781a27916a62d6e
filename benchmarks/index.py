"""Indexes of random unit vectors: build time, memory, latency, and recall@10 of exact search.

    python benchmarks/index.py [--sizes N ...] [--kinds KIND ...] [--columns D] [--queries N]

Vectors are distributed evenly, the worst case for approximate search, since neighbours are hardly
nearer than other vectors, or in clusters, like embeddings. Queries are drawn from the same
distribution and are not in the index. Each case runs in a separate process; memory is the growth of
the process while the index is built. "flat" is FAISS's IndexFlatIP; `exact` is compared with it in
turns, with single queries and batches of 256. The default of 100,000 vectors takes minutes;
--sizes 1000000 takes an hour on two cores.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

K = 10
BLOCK = 1 << 14
BATCH = 256
ROUNDS = 3


def make(count: int, columns: int, clustered: bool, seed: int) -> Any:
    import numpy as np

    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, columns), dtype=np.float32)
    if clustered:
        # 1,000 centres, the same for every seed; the cosine of a vector and its centre is 0.7.
        centres = np.random.default_rng(7).standard_normal((1000, columns), dtype=np.float32)
        rows += centres[rng.integers(0, len(centres), count)]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def resident() -> int:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) << 10


def milliseconds(search: Any, queries: Any) -> float:
    seconds = []
    for query in queries:
        begin = time.perf_counter()
        search(query[None])
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds) * 1000


def measure(kind: str, count: int, options: argparse.Namespace) -> dict[str, Any]:
    import faiss
    import numpy as np

    from cnclip.search import Index
    from cnclip.search.vectors import Vectors

    rows = make(count, options.columns, options.clustered, 0)
    queries = make(options.queries, options.columns, options.clustered, 1)
    before, begin = resident(), time.perf_counter()
    index = Index.create(
        options.columns, model=None, kind=kind, expected=count, sample=rows[:: max(1, count >> 20)]
    )
    for start in range(0, count, BLOCK):
        some = rows[start : start + BLOCK]
        index.add(some, [str(i) for i in range(start, start + len(some))])
    built = time.perf_counter() - begin
    memory = resident() - before
    index.prepare()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "it.index"
        index.save(path)
        size = path.stat().st_size
        begin = time.perf_counter()
        loaded = Index.load(path, check=False)
        opened = (time.perf_counter() - begin) * 1000
        found = loaded.search(queries, K)
        exact = loaded.search_exactly(queries, K)
        alone = milliseconds(lambda query: loaded.search(query, K), queries)
    hits = sum(
        len({hit.id for hit in a} & {hit.id for hit in b})
        for a, b in zip(found, exact, strict=True)
    )
    assert index.measured is not None
    figures = {
        "build_s": built,
        "memory_mb": memory / 1e6,
        "file_mb": size / 1e6,
        "open_ms": opened,
        "query_ms": alone,
        "recall": hits / (len(queries) * K),
        "stated": index.measured.recall,
        "effort": index.measured.effort,
    }
    if kind != "exact":
        return figures
    flat = faiss.IndexFlatIP(options.columns)
    flat.add(rows)
    ours = Vectors.create(options.columns, "exact")
    ours.add(rows)
    batch = np.resize(queries, (BATCH, options.columns))
    times: dict[str, list[float]] = {name: [] for name in ("flat", "ours", "flat*", "ours*")}
    for _ in range(ROUNDS):
        times["flat"].append(milliseconds(lambda query: flat.search(query, K), queries))
        times["ours"].append(milliseconds(lambda query: ours.search(query, K), queries))
        times["flat*"].append(milliseconds(lambda query: flat.search(query[0], K), batch[None]))
        times["ours*"].append(milliseconds(lambda query: ours.search(query[0], K), batch[None]))
    median = {name: statistics.median(some) for name, some in times.items()}
    figures["flat_query_ms"] = median["flat"]
    figures["ratio"] = median["ours"] / median["flat"]
    figures["ratio_batch"] = median["ours*"] / median["flat*"]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000])
    parser.add_argument("--kinds", nargs="+", default=["exact", "hnsw", "ivfpq"])
    parser.add_argument("--columns", type=int, default=512)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--clustered", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, options.sizes[0], options)))
        return
    if importlib.util.find_spec("faiss") is None:
        print("FAISS is not installed: pip install 'cnclip[search]'")
        return
    print(
        f"{'vectors':>9} {'distributed':11} {'kind':6} {'build':>8} {'memory':>9} {'file':>9} "
        f"{'open':>8} {'query':>9} {'recall@10':>9} {'stated':>6} {'effort':>6}"
    )
    for count in options.sizes:
        for clustered in (False, True):
            for kind in options.kinds:
                command = [sys.executable, __file__, "--case", kind, "--sizes", str(count)]
                command += ["--columns", str(options.columns), "--queries", str(options.queries)]
                command += ["--clustered"] if clustered else []
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
                found = json.loads(done.stdout)
                print(
                    f"{count:>9} {'clusters' if clustered else 'evenly':11} {kind:6} "
                    f"{found['build_s']:>6.1f} s {found['memory_mb']:>6.0f} MB "
                    f"{found['file_mb']:>6.0f} MB {found['open_ms']:>5.1f} ms "
                    f"{found['query_ms']:>6.2f} ms {found['recall']:>9.3f} {found['stated']:>6.3f} "
                    f"{found['effort']:>6}",
                    flush=True,
                )
                if kind == "exact":
                    print(
                        f"{'':9} {'':11} flat   {'':46}{found['flat_query_ms']:>6.2f} ms; exact "
                        f"takes {found['ratio']:.2f}x for single queries, "
                        f"{found['ratio_batch']:.2f}x for batches"
                    )


if __name__ == "__main__":
    main()
