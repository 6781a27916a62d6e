"""A short form of `make soak`: mixed calls on several threads of one process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc"),
]
ROOT = Path(__file__).parents[2]


def test_mixed_calls_for_20_seconds() -> None:
    # Memory reaches its size after minutes: here only gross growth is a fault.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("OMP_NUM_THREADS", None)  # as outside the tests: as many threads as it may use
    options = ["--seconds", 20, "--warm-up", 10, "--every", 3, "--models", 1, "--growth", 200]
    done = subprocess.run(
        [sys.executable, "-m", "tools.soak_calls", *map(str, options)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (*_, last) = done.stdout.splitlines()
    assert re.search(r"\d+ calls .* MB, \d+ descriptors, \d+ threads, \d+ mappings", last)
