"""Rows of the ONNX files of a model, compared with those of its archive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cnclip import pipeline
from cnclip.modeling.lower import torchscript
from tests.support.small_vit import TEXTS

Array = NDArray[Any]
INPUTS = {"image": "pixels", "text": "ids"}


def run(folder: Path, tower: str, inputs: Array) -> Array:
    """The rows of a tower in ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / f"{tower}.onnx")
    (rows,) = session.run(["unit_embedding"], {INPUTS[tower]: inputs})
    return rows


def random_texts(random: np.random.Generator, words: int, pad_id: int = 0) -> list[Array]:
    """Batches of ids of 2 to 52 columns: full, padded, and padded from the first column on."""
    batches = []
    for length in (2, 52, *random.integers(2, 52, 2)):
        ids = random.integers(0, words, (random.integers(2, 6), length))
        lengths = random.integers(0, length + 1, (len(ids), 1))
        lengths[0] = length
        batches.append(np.where(np.arange(length) < lengths, ids, pad_id))
    return [batches[0][:1], *batches]


def archived(embedder: Any) -> torch.jit.ScriptModule:
    """The graph of a pipeline's archive, which runs any ids."""
    with torchscript():
        module: torch.jit.ScriptModule = torch.jit.load(str(embedder.model.info.path))
        module.prepare("fp32")
    return module


def check_rows(folder: Path, model: Path, *, atol: float = 1e-5) -> None:
    """Compare a folder's rows with those of the model's archive, on random shapes."""
    random = np.random.default_rng(0)
    embedder = pipeline(model=model, device="cpu")
    ids = embedder.preprocess({"text": TEXTS})["text"]
    expected = embedder.forward({"text": TEXTS})["text_embedding"]
    np.testing.assert_allclose(run(folder, "text", ids), expected, rtol=0, atol=atol)
    description = json.loads((folder / "cnclip.json").read_text(encoding="utf-8"))
    side = description["image_resolution"]
    for batch in (1, *random.integers(2, 6, 2)):
        images = list(random.integers(0, 256, (batch, 50, 70, 3), np.uint8))
        pixels = embedder.preprocess({"img": images})["img"]
        assert pixels.shape == (batch, 3, side, side)
        expected = embedder.forward({"img": images})["img_embedding"]
        np.testing.assert_allclose(run(folder, "image", pixels), expected, rtol=0, atol=atol)
    words = description["architecture"]["text"]["vocab_size"]
    pad_id = description["architecture"]["pad_id"]
    archive = archived(embedder)
    for ids in random_texts(random, words, pad_id):
        with torch.inference_mode():
            expected = archive.encode_text(torch.from_numpy(ids)).numpy()
        rows = run(folder, "text", ids)
        np.testing.assert_allclose(rows, expected, rtol=0, atol=atol)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
