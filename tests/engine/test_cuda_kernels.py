"""The kernels for GPUs compile, for every architecture and size that a model may need.

They are run by the tests in tests/gpu.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cnclip.engine.build import KERNELS, SOURCES

NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
@pytest.mark.parametrize(
    ("architecture", "is_fp16", "head", "width"),
    [
        ("sm_80", 0, 64, 768),
        ("sm_80", 1, 64, 1024),
        ("sm_86", 0, 128, 2048),
        ("sm_90", 0, 80, 1280),
        ("sm_90", 1, 16, 8),
        ("sm_120", 0, 64, 768),
    ],
)
def test_kernels_compile_without_warnings(
    architecture: str, is_fp16: int, head: int, width: int, tmp_path: Path
) -> None:
    # NVRTC, which compiles them where a GPU is, has no headers: neither may they need any.
    macros = [f"-DCNCLIP_FP16={is_fp16}", f"-DCNCLIP_HEAD={head}", f"-DCNCLIP_WIDTH={width}"]
    command = [str(NVCC), "-cubin", "-std=c++17", f"-arch={architecture}", *macros]
    output = tmp_path / "kernels.cubin"
    done = subprocess.run(
        [*command, "-Werror", "all-warnings", "-o", str(output), str(SOURCES / KERNELS)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert output.stat().st_size > 0


def test_kernels_include_nothing() -> None:
    lines = (SOURCES / KERNELS).read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if line.startswith("#include")]
