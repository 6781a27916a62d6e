"""What a pipeline holds is returned when it is closed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.support.process_state import State

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc"),
    pytest.mark.skipif("CNCLIP_SANITIZE" in os.environ, reason="measures memory"),
]

# Prints the states of a process: at first, after 100 pipelines one after the other, while 20 are
# open, and after these.
PROGRAM = """
import json, sys
from dataclasses import asdict
from PIL import Image
import cnclip
from cnclip.errors import DeviceError
from tests.support.process_state import State

image = Image.new("RGB", (50, 40), (9, 99, 199))
kinds = [(model, precision) for model in sys.argv[1:] for precision in ("fp32", "int8")]

def opened(number):
    model, precision = kinds[number % len(kinds)]
    try:
        pipeline = cnclip.pipeline(model=model, device="cpu", precision=precision)
    except DeviceError:  # this processor does not compute in it
        pipeline = cnclip.pipeline(model=model, device="cpu")
    pipeline.forward({"text": ["\\u732b", "a"], "img": [image] * 3})
    return pipeline

for number in range(40):
    opened(number)
states = [State.of_this_process()]
for number in range(100):
    opened(number)
states.append(State.of_this_process())
open_ones = [opened(number) for number in range(20)]
states.append(State.of_this_process())
del open_ones
states.append(State.of_this_process())
print(json.dumps([asdict(state) for state in states]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("prepared", ["never", "always"])
def test_a_hundred_pipelines_leave_nothing(golden: Path, prepared: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, golden / "tiny-vit", golden / "tiny-rn"],
        # One arena, so that a thread's memory is not counted as growth.
        env={**os.environ, "CNCLIP_PREPARED": prepared, "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    before, after, while_open, closed = (State(**state) for state in json.loads(done.stdout))
    assert not after.grown_from(before, 1e6, 0, 3)
    assert not closed.grown_from(before, 1e6, 0, 3)
    # Open ones hold something, which is seen.
    assert while_open.grown_from(before, 1e6, 0, 3), asdict(while_open)
    print(before, after, while_open, closed, sep="\n")
