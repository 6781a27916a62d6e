"""Precisions through the pipeline, and the kernels that other processors would take."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import cnclip
from cnclip import pipeline
from cnclip.pipelines import MultiModalEmbeddingPipeline

GALLERY = Path(cnclip.__file__).parent / "assets" / "gallery"
Rows = NDArray[np.float32]
# A trained ViT: its linear layers are what is computed otherwise. The model that ships is a ResNet.
VIT = Path(__file__).parents[1] / "data" / "emoji-vit"


def open_or_skip(model: str | Path, precision: str) -> MultiModalEmbeddingPipeline:
    try:
        return pipeline(model=model, device="cpu", precision=precision)
    except cnclip.errors.DeviceError as error:
        pytest.skip(str(error))


def cosines(found: Rows, expected: Rows) -> Rows:
    rows: Rows = (found * expected).sum(1)
    return rows


@pytest.fixture(scope="module")
def gallery() -> dict[str, list[object]]:
    lines = (GALLERY / "gallery.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    return {
        "img": [GALLERY / entry["file"] for entry in entries],
        "text": [entry["label"] for entry in entries],
    }


@pytest.fixture(scope="module")
def exact(gallery: dict[str, list[object]]) -> dict[str, Rows]:
    rows: dict[str, Rows] = pipeline(model=VIT, device="cpu").forward(gallery)
    return rows


@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.997), ("int8", 0.995)])
def test_real_images_and_texts_stay_near_fp32(
    gallery: dict[str, list[object]], exact: dict[str, Rows], precision: str, least: float
) -> None:
    found = open_or_skip(VIT, precision).forward(gallery)
    for name, expected in exact.items():
        assert found[name].dtype == np.float32
        assert np.allclose(np.linalg.norm(found[name], axis=1), 1, atol=1e-5)
        near = cosines(found[name], expected)
        assert near.min() >= least
        assert near.min() < 1 - 1e-7, f"{precision} computed in fp32"
    best = [(rows["text_embedding"] @ rows["img_embedding"].T).argmax(1) for rows in (found, exact)]
    assert (best[0] == best[1]).mean() > 0.95


@pytest.mark.parametrize("model", ["tiny-vit", "tiny-rn"])
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_both_kinds_of_tower(
    golden: Path, image_paths: list[Path], texts: list[str], model: str, precision: str
) -> None:
    items = {"img": image_paths, "text": texts}
    found = open_or_skip(golden / model, precision).forward(items)
    expected = pipeline(model=golden / model, device="cpu").forward(items)
    for name in ("img_embedding", "text_embedding"):
        # Random weights spread less than trained ones: small models, few columns.
        assert cosines(found[name], expected[name]).min() > 0.99


@pytest.mark.parametrize("isa", ["serial", "avx2", "avx_vnni", "avx512", "avx512_vnni"])
def test_fp32_is_the_same_on_other_processors(
    gallery: dict[str, list[object]],
    exact: dict[str, Rows],
    monkeypatch: pytest.MonkeyPatch,
    isa: str,
) -> None:
    monkeypatch.setenv("CNCLIP_FORCE_ISA", isa)
    try:
        model = pipeline(model=VIT, device="cpu")
    except cnclip.errors.InvalidInputError as error:
        pytest.skip(str(error))
    found = model.forward({name: items[:40] for name, items in gallery.items()})
    for name, expected in exact.items():
        assert np.abs(found[name] - expected[:40]).max() < 2e-6


@pytest.mark.parametrize(
    ("isa", "precision", "others"),
    [
        ("avx2", "bf16", "fp32 or int8"),
        ("serial", "int8", "fp32"),
        ("avx512_vnni", "bf16", "fp32 or int8"),
        ("serial", "fp16", "fp32"),
        ("avx512_bf16", "fp16", "fp32, bf16 or int8"),
    ],
)
def test_a_precision_that_the_processor_lacks(
    monkeypatch: pytest.MonkeyPatch, isa: str, precision: str, others: str
) -> None:
    monkeypatch.setenv("CNCLIP_FORCE_ISA", isa)
    message = f"precision {precision} needs .* runs {isa}; use {others}$"
    try:
        with pytest.raises(cnclip.errors.DeviceError, match=message):
            pipeline(model="emoji-cn", device="cpu", precision=precision)
    except cnclip.errors.InvalidInputError as error:  # a machine that has less
        pytest.skip(str(error))


def test_a_precision_is_refused_before_anything_is_converted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, vit_directory: Path
) -> None:
    monkeypatch.setenv("CNCLIP_CACHE", str(tmp_path))
    with pytest.raises(cnclip.errors.DeviceError, match="^precision fp16 needs a GPU"):
        pipeline(model=vit_directory, device="cpu", precision="fp16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("isa", ["avx2", "avx_vnni", "avx512", "avx512_vnni"])
def test_int8_without_bf16(
    gallery: dict[str, list[object]],
    exact: dict[str, Rows],
    monkeypatch: pytest.MonkeyPatch,
    isa: str,
) -> None:
    monkeypatch.setenv("CNCLIP_FORCE_ISA", isa)
    try:
        model = open_or_skip(VIT, "int8")
    except cnclip.errors.InvalidInputError as error:
        pytest.skip(str(error))
    found = model.forward({name: items[:40] for name, items in gallery.items()})
    for name, expected in exact.items():
        assert cosines(found[name], expected[:40]).min() > 0.995


def test_padding_changes_nothing(vit: MultiModalEmbeddingPipeline) -> None:
    texts = ["猫", "一只戴着眼镜的猫坐在桌子上", "狗" * 60, "a", "猫"]
    together = vit.forward({"text": texts})["text_embedding"]
    for text, row in zip(texts, together, strict=True):
        alone = vit.forward({"text": text})["text_embedding"][0]
        assert np.abs(alone - row).max() < 2e-6


MEMORY = """
import random, sys
import cnclip

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))

random.seed(1)
texts = ["猫狗鸟鱼"[i % 4] * random.randint(1, 60) for i in range(10_000)]
p = cnclip.pipeline(model="emoji-cn", device="cpu", precision=sys.argv[1])
p.forward({"text": texts[:500]})
before = resident()
for i in range(500, 10_000, 50):
    p.forward({"text": texts[i : i + random.randint(1, 50)]})
p.forward({"text": texts})
print(resident() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_texts_of_all_lengths_leave_no_memory_behind(
    run_python: Callable[..., subprocess.CompletedProcess[str]], precision: str
) -> None:
    open_or_skip("emoji-cn", precision)
    grown = int(run_python(MEMORY, precision).stdout)
    assert grown < 64 * 1024
