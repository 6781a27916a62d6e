"""A short form of `make agreement`: random items against the slow twins."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def test_random_items_agree_with_the_twins() -> None:
    options = ["--images", 300, "--texts", 500, "--seed", 2]
    done = subprocess.run(
        [sys.executable, "-m", "tools.agreement", *map(str, options)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    compared = {tuple(row[:4]) for row in rows if len(row) == 8}
    assert {("serial", "fp32", "image", "300"), ("serial", "fp32", "text", "500")} <= compared
