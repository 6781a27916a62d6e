"""Freed memory is kept for the next batch."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

# Page faults per image of batches after the first ones.
PROGRAM = """
import resource
import numpy as np
import cnclip

p = cnclip.pipeline(model="emoji-cn", device="cpu", num_threads=1)
size = p.preprocessor.image_resolution
pixels = np.zeros((8, 3, size, size), np.float32)

def faults(batches):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(batches):
        p.model.encoder.encode_pixels(pixels)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / (8 * batches)

faults(5)
print(faults(20))
"""


@pytest.mark.skipif("CNCLIP_SANITIZE" in os.environ, reason="a sanitizer allocates in its own way")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators keep memory anyway")
def test_a_batch_has_few_page_faults() -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert float(run.stdout) < 10  # 100 where each batch gives its memory back
