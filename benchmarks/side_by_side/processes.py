"""Starts the workers, sends them requests, and stops them."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

WORKER = Path(__file__).parent / "worker.py"


class WorkerError(Exception):
    """An engine cannot run; the message is the last line that it wrote."""


class Worker:
    """An engine in a separate process, which handles one request at a time."""

    def __init__(self, name: str, data: Path, interpreter: str) -> None:
        self.name, self.data, self.interpreter = name, data, interpreter
        self.abilities: list[str] = []
        self.versions: dict[str, str] = {}
        self._log = data / f"{name}.log"
        with self._log.open("a") as log:
            try:
                self._process = subprocess.Popen(
                    [interpreter, WORKER, name, data, "serve"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
            except OSError as error:
                raise WorkerError(str(error)) from error

    def ask(self, request: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for the response."""
        assert self._process.stdin and self._process.stdout
        try:
            print(json.dumps({"do": request, **arguments}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(last_line(self._log))
        response: dict[str, Any] = json.loads(line)
        if "error" in response:
            raise WorkerError(response["error"])
        if request == "load":
            self.abilities, self.versions = response["abilities"], response["versions"]
        return response

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def prepare(name: str, data: Path, interpreter: str) -> None:
    """Let an engine write the files that it loads, such as an export, once per directory."""
    family = name.partition("-")[0]
    # Precisions of transformers' share one file of weights.
    done_before = data / f"{family if family == 'transformers' else name}.prepared"
    if not done_before.exists():
        run(name, data, interpreter, "prepare")
        done_before.touch()


def start_once(worker: Worker) -> dict[str, float]:
    """Start a new process of the engine; return seconds to the first embeddings and peak memory."""
    created = time.monotonic()
    started = json.loads(run(worker.name, worker.data, worker.interpreter, "start"))
    return {
        "start to first image": started["image"] - created,
        "start to first image and text": started["text"] - created,
        "peak memory of that process": started["peak_bytes"],
    }


def run(name: str, data: Path, interpreter: str, mode: str) -> str:
    """Run a worker to its end; return the last line of its stdout."""
    log = data / f"{name}.log"
    with log.open("a") as stream:
        try:
            done = subprocess.run(
                [interpreter, WORKER, name, data, mode],
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
            )
        except OSError as error:
            raise WorkerError(str(error)) from error
    if done.returncode != 0:
        raise WorkerError(last_line(log))
    return (done.stdout.strip().splitlines() or [""])[-1]


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "ended without a message"
