"""One engine in a separate process. processes.py starts it with the engine's interpreter.

Usage: worker.py ENGINE DATA prepare|start|serve

`prepare` writes the files that the engine loads; `start` embeds one image and one text and prints
the times; `serve` handles requests, one line of JSON each, until stdin ends.
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

# A turn repeats its timed call for this long, so that short calls are timed more than once.
TURN_SECONDS = 0.2


def main() -> None:
    name, data, mode = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    # Responses go to the original stdout; anything that libraries print goes to stderr.
    responses = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    engine = make_engine(name, data, int(os.environ["OMP_NUM_THREADS"]))
    if mode == "prepare":
        engine.prepare()
    elif mode == "start":
        print(json.dumps(start(engine)), file=responses)
    else:
        serve(engine, responses)


def start(engine: Engine) -> dict[str, float]:
    engine.load()
    engine.image(1)
    image = time.monotonic()
    engine.text(12, 1)
    text = time.monotonic()
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    return {"image": image, "text": text, "peak_bytes": peak}


def serve(engine: Engine, responses: IO[str]) -> None:
    for line in sys.stdin:
        request = json.loads(line)
        try:
            response = respond(engine, request)
        except Exception as error:  # any failure of an engine is reported
            message = " ".join(str(error).split())
            response = {"error": f"{type(error).__name__}: {message[:300]}"}
        print(json.dumps(response), file=responses)


def respond(engine: Engine, request: dict[str, Any]) -> dict[str, Any]:
    if request["do"] == "load":
        engine.load()
        return {"abilities": list(engine.abilities), "versions": engine.versions()}
    if request["do"] == "rows":
        rows = [engine.image(8), engine.text(12, 32), engine.text(52, 32)]
        np.save(request["path"], np.concatenate(rows))
        return {}
    return {"seconds": seconds_per_item(engine, request)}


def seconds_per_item(engine: Engine, case: dict[str, Any]) -> float:
    """Call once untimed, then repeatedly."""
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
