"""A torch that is built for CUDA, on a machine without a GPU: everything runs on the CPU.

PyPI's torch for Linux is one; `make test-matrix` installs it. Where torch is another, or there is a
GPU, these tests are skipped: tests/gpu has those of a GPU.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cnclip.engine import cuda_count
from cnclip.engine.libtorch import find_torch, load_cuda

Run = Callable[..., subprocess.CompletedProcess[str]]

TORCH = find_torch()
HAS_CUDA = (TORCH.directory / "lib" / "libtorch_cuda.so").exists()

pytestmark = [
    pytest.mark.skipif(not HAS_CUDA, reason="torch is not built for CUDA"),
    pytest.mark.skipif(HAS_CUDA and cuda_count() > 0, reason="this machine has a GPU"),
]


def test_its_libraries_load_without_a_driver() -> None:
    assert load_cuda(TORCH)
    assert cuda_count() == 0


@pytest.mark.parametrize("torch_first", [False, True])
def test_the_cpu_is_used(run_python: Run, archive: Path, torch_first: bool) -> None:
    """In silence, without importing torch, and whether or not torch was imported before."""
    code = (
        "import sys\n"
        "from cnclip.pipelines import pipeline\n"
        "imported = 'torch' in sys.modules\n"
        "opened = pipeline(model=sys.argv[1])\n"
        "print(opened.model.device, ('torch' in sys.modules) == imported)\n"
        "print(*opened.forward({'text': ['猫', '狗']})['text_embedding'].shape)\n"
    )
    done = run_python("import torch\n" * torch_first + code, archive)
    assert done.stdout == "cpu True\n2 64\n"
    assert done.stderr == ""


def test_gpus_that_are_lacking(run_python: Run, archive: Path) -> None:
    code = (
        "import sys\n"
        "from cnclip.errors import DeviceError\n"
        "from cnclip.pipelines import pipeline\n"
        "for device, precision in (('cuda', 'fp32'), ('cuda:7', 'bf16'), ('gpu', 'fp16')):\n"
        "    try:\n"
        "        pipeline(model=sys.argv[1], device=device, precision=precision)\n"
        "    except DeviceError as error:\n"
        "        print(error)\n"
        "print(pipeline(model=sys.argv[1], device='gpu:7').model.device)\n"
    )
    done = run_python(code, archive)
    lines = done.stdout.splitlines()
    assert lines[:2] == [
        f"no device {device!r}: torch finds 0 GPUs here" for device in ("cuda", "cuda:7")
    ]
    assert lines[2].startswith("precision fp16 needs a GPU, ")
    assert lines[3] == "cpu"
    assert done.stderr.strip().endswith("device 'gpu:7': torch finds 0 GPUs here, using the CPU")


def test_the_command(run_python: Run, tmp_path: Path) -> None:
    code = "import sys\nfrom cnclip.cli import main\nsys.exit(main(sys.argv[1:]))"
    (tmp_path / "texts.txt").write_text("猫\n狗\n", encoding="utf-8")
    given = ("embed", tmp_path / "texts.txt", "--texts", "-o", tmp_path / "out", "--device")
    done = run_python(code, *given, "cuda:0", check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "cnclip embed: no device 'cuda:0': torch finds 0 GPUs here"
    )
    run_python(code, *given, "gpu")
