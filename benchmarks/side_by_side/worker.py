"""One engine in a process of its own. Started by processes.py under the engine's interpreter.

Usage: worker.py ENGINE DATA prepare|start|serve

`prepare` writes what the engine loads; `start` embeds once each and tells when that was done;
`serve` answers requests, a line of JSON each, until stdin ends.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import IO, Any

import numpy as np
from engines import Engine, make_engine

# A turn's timed calls go on for this long, so that short ones are timed more than once.
TURN_SECONDS = 0.2


def main() -> None:
    name, data, mode = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    # Answers go to what was stdout; what libraries print goes to stderr.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    engine = make_engine(name, data, int(os.environ["OMP_NUM_THREADS"]))
    if mode == "prepare":
        engine.prepare()
    elif mode == "start":
        print(json.dumps(start(engine)), file=answers)
    else:
        serve(engine, answers)


def start(engine: Engine) -> dict[str, float]:
    engine.load()
    engine.image(1)
    image = time.monotonic()
    engine.text(12, 1)
    text = time.monotonic()
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    return {"image": image, "text": text, "peak_bytes": peak}


def serve(engine: Engine, answers: IO[str]) -> None:
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = answer_to(engine, request)
        except Exception as error:  # whatever keeps an engine from running is a reason to tell
            message = " ".join(str(error).split())
            answer = {"error": f"{type(error).__name__}: {message[:300]}"}
        print(json.dumps(answer), file=answers)


def answer_to(engine: Engine, request: dict[str, Any]) -> dict[str, Any]:
    if request["do"] == "load":
        engine.load()
        return {"abilities": list(engine.abilities), "versions": engine.versions()}
    if request["do"] == "rows":
        rows = [engine.image(8), engine.text(12, 32), engine.text(52, 32)]
        np.save(request["path"], np.concatenate(rows))
        return {}
    return {"seconds": seconds_of_an_item(engine, request)}


def seconds_of_an_item(engine: Engine, case: dict[str, Any]) -> float:
    """Calls once untimed, then for a while."""
    kind: str = case["kind"]
    items: int = case["batch"]
    arguments = (case["tokens"], items) if kind == "text" else (items,)
    call = getattr(engine, kind)
    call(*arguments)
    calls, begin = 0, time.perf_counter()
    while True:
        call(*arguments)
        calls += 1
        elapsed = time.perf_counter() - begin
        if elapsed >= TURN_SECONDS:
            return elapsed / calls / items


if __name__ == "__main__":
    main()
