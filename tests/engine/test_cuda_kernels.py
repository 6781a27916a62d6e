"""The kernels for GPUs compile, for every architecture and size that a model may need.

They are run by the tests in tests/gpu.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cnclip.engine.build import KERNELS, SOURCES

NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


KERNELS_MACROS = [
    ("sm_80", 0, 64, 768),
    ("sm_80", 1, 64, 1024),
    ("sm_86", 0, 128, 2048),
    ("sm_90", 0, 80, 1280),
    ("sm_90", 1, 16, 8),
    ("sm_120", 0, 64, 768),
]


def compile_kernels(source: str, architecture: str, macros: list[str], output: Path) -> None:
    # NVRTC, which compiles them where a GPU is, has no headers: neither may they need any.
    target = f"arch={architecture.replace('sm_', 'compute_')},code={architecture}"
    command = [str(NVCC), "-cubin", "-std=c++17", "-gencode", target, *macros]
    command += ["-Werror", "all-warnings", "-o", str(output), str(SOURCES / source)]
    # A sanitizer's library must not be loaded into nvcc and the programs that it starts.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert output.stat().st_size > 0


@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
@pytest.mark.parametrize(("architecture", "is_fp16", "head", "width"), KERNELS_MACROS)
def test_kernels_compile_without_warnings(
    architecture: str, is_fp16: int, head: int, width: int, tmp_path: Path
) -> None:
    macros = [f"-DCNCLIP_FP16={is_fp16}", f"-DCNCLIP_HEAD={head}", f"-DCNCLIP_WIDTH={width}"]
    compile_kernels(KERNELS[0], architecture, macros, tmp_path / "kernels.cubin")


@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
@pytest.mark.parametrize("is_fp16", [0, 1])
@pytest.mark.parametrize("activation", [0, 1, 2, 3, 4, 5])
def test_hopper_kernel_compiles_without_warnings(
    is_fp16: int, activation: int, tmp_path: Path
) -> None:
    macros = [f"-DCNCLIP_FP16={is_fp16}", f"-DCNCLIP_ACTIVATION={activation}"]
    compile_kernels(KERNELS[1], "sm_90a", macros, tmp_path / "kernels.cubin")


@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
@pytest.mark.parametrize("architecture", ["sm_75", "sm_90", "sm_120"])
def test_resizing_kernels_compile_without_warnings(architecture: str, tmp_path: Path) -> None:
    compile_kernels(KERNELS[2], architecture, [], tmp_path / "kernels.cubin")


@pytest.mark.parametrize("source", KERNELS)
def test_kernels_include_nothing(source: str) -> None:
    lines = (SOURCES / source).read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if line.startswith("#include")]
