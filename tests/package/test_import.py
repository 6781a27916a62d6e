"""Importing: libtorch's libraries without Python's torch, and only those of the right version."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import cnclip
from cnclip import _libtorch
from cnclip.pipelines import MultiModalEmbeddingPipeline

Run = Callable[..., subprocess.CompletedProcess[str]]

EMBED = """
p = cnclip.pipeline(model=sys.argv[1], device="cpu")
image = Image.open(sys.argv[2])
answer = p({"img": [image, sys.argv[2]], "text": ["猫", "皮卡丘"]})
rows = np.concatenate([answer["img_embedding"], answer["text_embedding"]])
"""
IMPORTS = "import sys\nimport numpy as np\nfrom PIL import Image\n"
NO_TORCH = 'print([name for name in sys.modules if name.split(".")[0] == "torch"])\n'


@pytest.mark.parametrize(
    "statement",
    [
        "import cnclip",
        "from cnclip import pipeline, Tasks, load_image",
        "from cnclip.pipelines import pipeline",
        "from cnclip.utils.constant import Tasks",
        "from cnclip.preprocessors.image import load_image",
        "from cnclip.outputs import OutputKeys",
        "import cnclip.cli",
        "import cnclip.demo",
    ],
)
def test_importing_leaves_torch_alone(run_python: Run, statement: str) -> None:
    assert run_python(f"import sys\n{statement}\n{NO_TORCH}").stdout == "[]\n"


@pytest.mark.parametrize("kind", ["archive", "directory"])
def test_opening_and_embedding_leave_torch_alone(
    run_python: Run,
    archive: Path,
    vit_directory: Path,
    vit: MultiModalEmbeddingPipeline,
    image_paths: list[Path],
    kind: str,
) -> None:
    model = archive if kind == "archive" else vit_directory
    code = f"{IMPORTS}import cnclip\n{EMBED}{NO_TORCH}"
    assert run_python(code, model, image_paths[0]).stdout == "[]\n"


@pytest.mark.parametrize("order", ["before", "after", "between"])
def test_torch_may_be_imported(
    run_python: Run,
    tmp_path: Path,
    vit: MultiModalEmbeddingPipeline,
    vit_directory: Path,
    image_paths: list[Path],
    order: str,
) -> None:
    use_torch = "import torch\nproduct = torch.randn(300, 300) @ torch.randn(300, 300)\n"
    parts = {
        "before": [use_torch, "import cnclip\n", EMBED],
        "between": ["import cnclip\n", use_torch, EMBED],
        "after": ["import cnclip\n", EMBED, use_torch],
    }[order]
    # One copy of each library: a second libtorch or OpenMP would be mapped from another path.
    code = (
        IMPORTS
        + "".join(parts)
        + (
            "np.save(sys.argv[3], rows)\n"
            "maps = {line.split()[-1] for line in open('/proc/self/maps') if '/' in line}\n"
            "for name in ('libtorch_cpu', 'libc10.', 'libgomp'):\n"
            "    print(name, sum(name in path for path in maps))\n"
        )
    )
    output = tmp_path / "rows.npy"
    done = run_python(code, vit_directory, image_paths[0], output)
    assert done.stdout == "libtorch_cpu 1\nlibc10. 1\nlibgomp 1\n"
    answer = vit({"img": [str(image_paths[0])], "text": ["猫", "皮卡丘"]})
    rows = np.load(output)
    assert np.abs(rows[1:2] - answer["img_embedding"]).max() < 2e-6
    assert np.abs(rows[2:] - answer["text_embedding"]).max() < 2e-6


@pytest.fixture
def fake_torch(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a torch package of a given version.py."""

    def make(version_file: str) -> Path:
        package = tmp_path / "torch"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "version.py").write_text(version_file, encoding="utf-8")
        return tmp_path

    return make


@pytest.mark.parametrize("version", ["2.12.1", "2.14.0+cu130", "3.0.0", "2.130.0"])
def test_another_torch_is_refused(
    run_python: Run, fake_torch: Callable[[str], Path], version: str
) -> None:
    path = fake_torch(f"from typing import Optional\n__version__ = '{version}'\ncuda = None\n")
    done = run_python("import cnclip", check=False, PYTHONPATH=str(path))
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: this cnclip was built for torch 2.13, but torch ")
    assert version in last
    assert "pip install 'torch==2.13.*'" in last


def test_a_torch_without_a_version_is_refused(
    run_python: Run, fake_torch: Callable[[str], Path]
) -> None:
    done = run_python("import cnclip", check=False, PYTHONPATH=str(fake_torch("")))
    assert "but torch unknown is installed" in done.stderr


def test_a_torch_without_libraries_is_refused(
    run_python: Run, fake_torch: Callable[[str], Path]
) -> None:
    path = fake_torch("__version__: str = '2.13.7'\n")
    done = run_python("import cnclip", check=False, PYTHONPATH=str(path))
    assert "ImportError: the libraries of torch cannot be loaded" in done.stderr


def test_a_missing_torch_is_reported(run_python: Run, tmp_path: Path) -> None:
    # A copy of the package alone, imported by an interpreter without site-packages.
    source = Path(cnclip.__file__).parent
    copy = tmp_path / "cnclip"
    copy.mkdir()
    for name in ("__init__.py", "_libtorch.py", "_built_with.py", "_text.py"):
        shutil.copy(source / name, copy / name)
    done = run_python("import cnclip", check=False, flags=("-S",), PYTHONPATH=str(tmp_path))
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: cnclip needs torch 2.13, which is not installed")
    assert "pip install 'torch==2.13.*'" in last


def test_a_torch_without_cuda_has_no_cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    monkeypatch.setattr(_libtorch, "torch_directory", lambda: tmp_path)
    assert not _libtorch.load_cuda()
    # One whose CUDA library cannot be loaded, as where the driver is missing.
    (tmp_path / "lib" / "libtorch_cuda.so").write_bytes(b"not a library")
    assert not _libtorch.load_cuda()
