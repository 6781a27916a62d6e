"""Importing cnclip, and torch before or after it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cnclip.pipelines import MultiModalEmbeddingPipeline

Run = Callable[..., subprocess.CompletedProcess[str]]

EMBED = """
p = cnclip.pipeline(model=sys.argv[1], device="cpu")
image = Image.open(sys.argv[2])
answer = p({"img": [image, sys.argv[2]], "text": ["猫", "皮卡丘"]})
rows = np.concatenate([answer["img_embedding"], answer["text_embedding"]])
"""
IMPORTS = "import sys\nimport numpy as np\nfrom PIL import Image\n"
NO_TORCH = 'print([name for name in sys.modules if name.split(".")[0] == "torch"], flush=True)\n'

# Each statement is the first that a process imports cnclip with.
IMPORT_EACH = f"""
import os, sys
import numpy, PIL.Image
for statement in sys.argv[1:]:
    if os.fork() == 0:
        exec(statement)
        {NO_TORCH.strip()}
        os._exit(0)
    os.wait()
"""


def test_importing_leaves_torch_alone(run_python: Run) -> None:
    statements = [
        "import cnclip",
        "from cnclip import pipeline, Tasks, load_image",
        "from cnclip.pipelines import pipeline",
        "from cnclip.utils.constant import Tasks",
        "from cnclip.preprocessors.image import load_image",
        "from cnclip.outputs import OutputKeys",
        "import cnclip.cli",
        "import cnclip.demo",
    ]
    done = run_python(IMPORT_EACH, *statements)
    assert done.stdout.splitlines() == ["[]"] * len(statements), done.stderr


def test_commands_import_the_server_only_to_serve(run_python: Run) -> None:
    code = (
        "import contextlib, io, sys\nfrom cnclip.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main([sys.argv[1], '--help'])\n"
        "print(*sorted(name for name in sys.modules if name.startswith('cnclip.serve')))\n"
    )
    assert run_python(code, "demo").stdout.split() == ["cnclip.serve", "cnclip.serve.options"]
    assert run_python(code, "embed").stdout.split() == []
    names = "from cnclip.serve import *\nprint(Batcher.__name__, open_gallery.__name__)"
    assert run_python(names).stdout.split() == ["Batcher", "open_gallery"]


def test_opening_and_embedding_leave_torch_alone(
    run_python: Run,
    archive: Path,
    vit_directory: Path,
    vit: MultiModalEmbeddingPipeline,
    image_paths: list[Path],
) -> None:
    code = f"{IMPORTS}import cnclip\n{EMBED}{NO_TORCH}sys.argv[1] = sys.argv[3]\n{EMBED}{NO_TORCH}"
    assert run_python(code, archive, image_paths[0], vit_directory).stdout == "[]\n[]\n"


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


def test_importing_needs_no_torch(run_python: Run) -> None:
    code = (
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'torch':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
        "import cnclip, cnclip.cli\n"
        "from cnclip._core import Tokenizer\n"
        "try:\n"
        "    cnclip.pipeline(model='emoji-cn', device='cpu')\n"
        "except cnclip.CnclipError as error:\n"
        "    print(type(error).__name__, error)\n"
        "    cnclip.cli.main(['--version'])\n"
    )
    done = run_python(code)
    assert done.stdout.startswith("EngineError torch is not installed: pip install 'torch>=2.9'\n")
    assert "cnclip" in done.stdout.splitlines()[-1]
