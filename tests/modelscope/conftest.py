"""Runs the programs of tests/support/programs, with a local hub that has a golden model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.fork_server import ForkServer
from tests.support.hub_server import Hub, serve
from tests.support.training import write_pairs

PROGRAMS = Path(__file__).parents[1] / "support" / "programs"
MODEL = "damo/multi-modal_clip-vit-base-patch16_zh"
# What `python -m cnclip.modelscope` does, in a process that has imported torch already.
RUN = "import sys\nfrom cnclip.modelscope.running import run\nrun(sys.argv[1:], None)\n"
# Models of the same task that are not Chinese-CLIP, by what their configuration says.
OTHERS = {
    "damo/multi-modal_gemm-vit-large-patch14": {
        "task": "multi-modal-embedding",
        "model": {"type": "gemm-generative-multi-modal"},
    },
    "damo/multi-modal_team-vit-large": {"model": {"type": "team-multi-modal-similarity"}},
    "M2Cognition/M2-Encoder": {
        "task": "multi-modal-embedding",
        "model": {"type": "m2-encoder"},
        "plugins": ["m2"],
    },
    "iic/gme-Qwen2-VL-2B": {"task": "multi-modal-embedding", "plugins": ["gme"]},
    "Qwen/Qwen3-VL-Embedding-2B": {"model_type": "qwen3_vl"},
}

Completed = subprocess.CompletedProcess[str]
Run = Callable[..., Completed]


@pytest.fixture(scope="session")
def other_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories of models that are not Chinese-CLIP."""
    found = {}
    for name, settings in OTHERS.items():
        found[name] = tmp_path_factory.mktemp("other")
        file = "config.json" if "model_type" in settings else "configuration.json"
        (found[name] / file).write_text(json.dumps(settings), encoding="utf-8")
    return found


@pytest.fixture(scope="session")
def muge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in Chinese-CLIP's layout, as one on the hub."""
    folder = tmp_path_factory.mktemp("muge")
    write_pairs(folder, "train", 24)
    write_pairs(folder, "valid", 10)
    (folder / "README.md").write_text("not needed")
    (folder / "muge.py").write_text("raise SystemExit('a script that must not run')")
    return folder


@pytest.fixture(scope="session")
def hub(vit_directory: Path, other_models: dict[str, Path], muge: Path) -> Iterator[Hub]:
    """A hub of a data set and models: the ViT under the name of the published one, and others."""
    with serve({MODEL: vit_directory, **other_models}, {"modelscope/muge": muge}) as server:
        yield server


@pytest.fixture(scope="session")
def variables(hub: Hub, vit: object, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of the programs; `vit` has been converted already."""
    cache = tmp_path_factory.mktemp("modelscope")
    return {"MODELSCOPE_ENDPOINT": hub.url, "MODELSCOPE_CACHE": str(cache)}


@pytest.fixture
def run_program(fork_server: ForkServer, variables: dict[str, str]) -> Run:
    """Runs a program by its name, as `python -m cnclip.modelscope` does."""
    pytest.importorskip("modelscope_hub")

    def run(name: str, *arguments: object, check: bool = True, **others: str) -> Completed:
        script = PROGRAMS / f"{name}.py"
        done = fork_server.run(RUN, script, *arguments, **variables, **others)
        assert not check or done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture
def run_command(variables: dict[str, str]) -> Run:
    """Runs `python -m cnclip.modelscope` with some arguments, or with `plain` without it."""

    def run(
        *arguments: object, plain: bool = False, stdin: str = "", folder: Path | None = None
    ) -> Completed:
        module = [] if plain else ["-m", "cnclip.modelscope"]
        return subprocess.run(
            [sys.executable, *module, *map(str, arguments)],
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            cwd=folder,
            env={**os.environ, **variables, "PYTHONPATH": str(PROGRAMS.parents[2])},
            timeout=600 if plain else 120,  # ModelScope scans its own files at the first start
        )

    return run
