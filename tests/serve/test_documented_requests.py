"""The lines with curl in the documentation run against the server."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.serve import Searchable

pytest.importorskip("fastapi", reason="fastapi is not installed, cnclip's extra `serve`")
pytest.importorskip("uvicorn", reason="uvicorn is not installed, cnclip's extra `serve`")
from tests.support.api import CAT, listening

ROOT = Path(__file__).parents[2]
PAGES = ("docs/en/howto/serve.md", "docs/zh/deployment.md")
BLOCK = re.compile(
    r"<!-- not run: asks a server; tests/serve runs it -->\n```console\n(.*?)```", re.DOTALL
)


def lines_of(page: str) -> list[str]:
    blocks = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
@pytest.mark.parametrize("page", PAGES)
def test_each_line_with_curl(
    page: str, embedder: MultiModalEmbeddingPipeline, gallery: Searchable, tmp_path: Path
) -> None:
    for name in ("cat.png", "dog.png"):
        shutil.copy(CAT, tmp_path / name)
    lines = lines_of(page)
    assert len(lines) >= 3
    with listening(embedder, collections=(gallery,)) as (url, _):
        for line in lines:
            command = line.replace("http://127.0.0.1:7860", url).replace("curl ", "curl -sSf ", 1)
            done = subprocess.run(
                command, shell=True, cwd=tmp_path, capture_output=True, timeout=60, check=False
            )
            assert done.returncode == 0, (line, done.stderr)
            assert done.stdout or "-o rows.bin" in line, line
