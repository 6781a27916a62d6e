"""The published sizes with random weights: converted and run once, with time and peak memory.

Gigabytes and minutes: `make test-full-size` runs it, and prints the table of
docs/en/guide/models.md.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import cnclip
from cnclip.benchmark import write_model_directory
from cnclip.checkpoints.published_sizes import PUBLISHED_SIZES
from cnclip.convert import convert
from tests.support.onnx_rows import check_rows

pytestmark = pytest.mark.full_size

# Each step runs in a separate process, whose peak memory is that of the step.
PROGRAM = """
import json, sys, time
from pathlib import Path
begin = time.perf_counter()
step, source, output, to = sys.argv[1:]
if step == "convert":
    from cnclip.convert import convert
    convert(source, output, to=to)
else:
    import numpy as np
    import cnclip
    p = cnclip.pipeline(model=source, device="cpu")
    images = [np.full((480, 640, 3), 90, np.uint8)] * 2
    answer = p.forward({"img": images, "text": ["一只猫", "狗"]})
    assert all(np.isfinite(rows).all() for rows in answer.values())
    np.testing.assert_allclose(np.linalg.norm(answer["img_embedding"], axis=1), 1, atol=1e-5)
seconds = time.perf_counter() - begin
fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps({"seconds": seconds, "bytes": int(fields["VmHWM"].split()[0]) << 10}))
"""


def run(step: str, source: Path, output: Path, to: str = "archive") -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, step, str(source), str(output), to],
        env={**os.environ, "PYTHONPATH": str(Path(cnclip.__file__).parents[1])},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def in_float32(source: Path) -> Path:
    """A ModelScope directory of which no tensor is float16."""
    file = source / "pytorch_model.bin"
    weights = torch.load(file, weights_only=True)["state_dict"]
    for name in list(weights):  # one by one: the halves go as the others come
        weights[name] = weights[name].float()
    torch.save({"state_dict": weights}, file)
    return source


# Kinds of the checkpoint that is converted, and the ways to make one of ModelScope's directory.
KINDS: dict[str, Callable[[Path], Path]] = {
    "modelscope": lambda source: source,
    "modelscope, float32": in_float32,
    "huggingface": lambda source: convert(
        source, source.with_name("huggingface"), to="huggingface"
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PUBLISHED_SIZES)
def test_converting_and_running(
    name: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if (name, kind) == ("RN50", "huggingface"):
        pytest.skip("Hugging Face's format has no ResNet")
    archive = tmp_path / "a.cnclip.pt"
    write_model_directory(name, tmp_path / "source")
    source = KINDS[kind](tmp_path / "source")
    converted, ran = run("convert", source, archive), run("run", archive, archive)
    parameters = cnclip.archive.read_archive(archive).metadata["parameters"]
    with capsys.disabled():
        print(
            f"\n| `{name}` | {kind} | {archive.stat().st_size / 1e6:.0f} MB"
            f" | {converted['seconds']:.0f} s | {converted['bytes'] / 1e6:.0f} MB"
            f" | {ran['seconds']:.1f} s | {ran['bytes'] / 1e6:.0f} MB |"
        )
    assert converted["bytes"] < 1.2 * 4 * parameters + 500e6
    remove_files(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("to", ["modelscope", "cn_clip", "huggingface"])
def test_writing_the_largest_back(
    to: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "a.cnclip.pt"
    write_model_directory("ViT-H-14", tmp_path / "source")
    convert(KINDS[kind](tmp_path / "source"), archive)
    parameters = cnclip.archive.read_archive(archive).metadata["parameters"]
    for file in list(tmp_path.iterdir()):
        if file != archive:
            shutil.rmtree(file)
    done = run("convert", archive, tmp_path / to, to)
    with capsys.disabled():
        print(f"\n{kind} archive to {to}: {done['bytes'] / 1e6:.0f} MB, {done['seconds']:.0f} s")
    assert done["bytes"] < 1.2 * 4 * parameters + 500e6
    remove_files(tmp_path)


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-H-14"])
def test_onnx(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    source, output = tmp_path / "source", tmp_path / "onnx"
    write_model_directory(name, source)
    done = run("convert", source, output, "onnx")
    deviations = json.loads((output / "cnclip.json").read_text())["largest_deviation_from_torch"]
    assert all(value < 1e-5 for value in deviations.values())
    check_rows(output, source)
    # The image tower of ViT-H/14 is above the limit of protobuf.
    sizes = {file.name: file.stat().st_size for file in output.iterdir()}
    assert ("image.onnx.data" in sizes) == (name == "ViT-H-14")
    assert "text.onnx.data" not in sizes
    with capsys.disabled():
        print(f"\n{name} to onnx: {sizes}, {deviations}", end=", ")
        print(f"{done['bytes'] / 1e6:.0f} MB, {done['seconds']:.0f} s")
    remove_files(tmp_path)


def remove_files(directory: Path) -> None:
    """pytest keeps what tests leave."""
    for path in directory.rglob("*"):
        if path.is_file():
            path.unlink()
