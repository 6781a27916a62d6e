"""Measures how long a new process takes to its first embeddings."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import NamedTuple

from .._text import printable
from ..errors import CnclipError

# Only the imports and calls of a user's program. On Linux ru_maxrss includes memory of the parent
# process, so the peak is read from /proc.
_PROGRAM = """
import json, sys, time
import numpy as np
from PIL import Image
from cnclip import pipeline

opened = pipeline(**json.loads(sys.argv[1]))
opened.forward({"img": Image.fromarray(np.zeros((480, 640, 3), np.uint8))})
image = time.monotonic()
opened.forward({"text": "一个在逛公园的女孩子"})
text = time.monotonic()
try:
    with open("/proc/self/status") as file:
        peak = next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM:"))
except (OSError, StopIteration):
    import resource
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
print(json.dumps([image, text, peak]))
"""


class Start(NamedTuple):
    """The start of a new process.

    Attributes:
        image_seconds: From the creation of the process to the first image's embedding.
        text_seconds: From the creation of the process to the first text's embedding, after the
            image's.
        peak_bytes: Peak resident memory.
    """

    image_seconds: float
    text_seconds: float
    peak_bytes: int


def run_once(model: str, precision: str, num_threads: int, device: str = "cpu") -> Start:
    """Start a process that opens a model, embeds one image, then one text.

    Args:
        model: As for `pipeline`; conversion of a checkpoint would be measured too.
        precision: As for `pipeline`.
        num_threads: As for `pipeline`.
        device: As for `pipeline`.

    Raises:
        CnclipError: the process failed; the reason has the last line of its stderr.
    """
    arguments = json.dumps(
        {"model": model, "precision": precision, "num_threads": num_threads, "device": device}
    )
    created = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, arguments],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise CnclipError(f"a new process could not embed: {printable(last)}")
    image, text, peak_bytes = json.loads(done.stdout.splitlines()[-1])
    return Start(image - created, text - created, peak_bytes)
