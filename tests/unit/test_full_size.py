"""The published sizes with random weights: converted and run once, with time and peak memory.

Gigabytes and minutes: `make test-full-size` runs it, and prints the table of docs/models.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import cnclip
from cnclip.benchmark import write_model_directory
from cnclip.checkpoints.known import KNOWN_MODELS

pytestmark = pytest.mark.full_size

# Either step in a process of its own, whose peak memory is the step's.
PROGRAM = """
import json, sys, time
from pathlib import Path
begin = time.perf_counter()
step, source, output = sys.argv[1:]
if step == "convert":
    from cnclip.convert import convert
    convert(source, output)
else:
    import numpy as np
    import cnclip
    p = cnclip.pipeline(model=source, device="cpu")
    pictures = [np.full((480, 640, 3), 90, np.uint8)] * 2
    answer = p.forward({"img": pictures, "text": ["一只猫", "狗"]})
    assert all(np.isfinite(rows).all() for rows in answer.values())
    np.testing.assert_allclose(np.linalg.norm(answer["img_embedding"], axis=1), 1, atol=1e-5)
seconds = time.perf_counter() - begin
fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps({"seconds": seconds, "bytes": int(fields["VmHWM"].split()[0]) << 10}))
"""


def run(step: str, source: Path, output: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, step, str(source), str(output)],
        env={**os.environ, "PYTHONPATH": str(Path(cnclip.__file__).parents[1])},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("kind", ["modelscope", "huggingface"])
@pytest.mark.parametrize("name", KNOWN_MODELS)
def test_converting_and_running(
    name: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if (name, kind) == ("RN50", "huggingface"):
        pytest.skip("Hugging Face's format has no ResNet")
    source, archive = tmp_path / "source", tmp_path / "a.cnclip.pt"
    write_model_directory(name, source)
    if kind == "huggingface":
        source = cnclip.convert.convert(source, tmp_path / "huggingface", to="huggingface")
    converted, ran = run("convert", source, archive), run("run", archive, archive)
    parameters = cnclip.archive.read_archive(archive).metadata["parameters"]
    with capsys.disabled():
        print(
            f"\n| `{name}` | {kind} | {archive.stat().st_size / 1e6:.0f} MB"
            f" | {converted['seconds']:.0f} s | {converted['bytes'] / 1e6:.0f} MB"
            f" | {ran['seconds']:.1f} s | {ran['bytes'] / 1e6:.0f} MB |"
        )
    assert converted["bytes"] < 1.2 * 4 * parameters + 500e6
    for path in tmp_path.rglob("*"):  # pytest keeps what tests leave
        if path.is_file():
            path.unlink()
