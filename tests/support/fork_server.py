"""New processes in which torch and cnclip are imported already.

Importing torch takes longer than most tests. So one process imports it, and a fork of that process
runs the code of a test. That process has embedded nothing, so its forks may. The hubs' clients read
the environment when they are imported, which each fork does; what they import is imported before.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

# Reads a job per line; prints the id of its process, then its exit status.
SERVER = """
import importlib, json, os, sys, traceback
import torch
import torch._dynamo  # every optimizer imports it, which takes a second
import cnclip.convert, cnclip.models, cnclip.pipelines
from cnclip.engine import open_engine
from cnclip.train import finetune

open_engine()
for name in ("asyncio", "filelock", "httpx", "httpx2", "requests", "tqdm.auto", "yaml"):
    try:
        importlib.import_module(name)
    except ImportError:
        pass

def run(job):
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        opened = os.open(job[name], os.O_RDWR | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
    os.environ.clear()
    os.environ.update(job["environment"])
    sys.argv = ["-c", *job["arguments"]]
    exec(compile(job["code"], "<string>", "exec"), {"__name__": "__main__"})

for line in sys.stdin:
    process = os.fork()
    if process == 0:
        status = 1
        try:
            run(json.loads(line))
            status = 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(status)
    print(process, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


class ForkServer:
    """The process that is forked, which starts with the first run."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None

    def run(
        self, code: str, *arguments: object, stdin: str = "", timeout: float = 120, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run code in a fork, whose environment is that of this process and `variables`."""
        with tempfile.TemporaryDirectory(prefix="cnclip-tests-") as directory:
            paths = {name: Path(directory, name) for name in ("stdin", "stdout", "stderr")}
            for path in paths.values():
                path.write_text(stdin if path.name == "stdin" else "", encoding="utf-8")
            job: dict[str, Any] = {name: str(path) for name, path in paths.items()} | {
                "code": code,
                "arguments": [str(argument) for argument in arguments],
                "environment": {**os.environ, **variables},
            }
            status = self._status_of(job, timeout)
            outputs = [
                paths[name].read_text(encoding="utf-8", errors="replace")
                for name in ("stdout", "stderr")
            ]
        return subprocess.CompletedProcess([code, *job["arguments"]], status, *outputs)

    def _status_of(self, job: Mapping[str, Any], timeout: float) -> int:
        server = self._started()
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        process = int(server.stdout.readline())
        if not select.select([server.stdout], [], [], timeout)[0]:
            os.kill(process, signal.SIGKILL)
            server.stdout.readline()
            raise subprocess.TimeoutExpired(job["code"], timeout)
        return int(server.stdout.readline())

    def _started(self) -> subprocess.Popen[str]:
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, "-c", SERVER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="utf-8",
                env={**os.environ, "PYTHONIOENCODING": "utf-8"},
            )
        return self._server

    def stop(self) -> None:
        if self._server is not None:
            # Not by closing its input, which a process that a test forked may hold open.
            self._server.kill()
            with self._server:
                pass


def code_at_once(count: int, body: str) -> str:
    """Code that runs `body` in several processes at the same time, and then prints their statuses.

    Each process waits at a pipe until all run.
    """
    return f"""
import os, sys
import cnclip
started, go = os.pipe(), os.pipe()
children = []
for _ in range({count}):
    child = os.fork()
    if child:
        children.append(child)
        continue
    os.close(go[1])
    os.write(started[1], b"x")
    os.read(go[0], 1)  # returns once the parent has closed its end
{indent(dedent(body).strip(), "    ")}
    os._exit(0)
for _ in children:
    os.read(started[0], 1)
os.close(go[1])
print(*(os.waitpid(child, 0)[1] for child in children))
"""
