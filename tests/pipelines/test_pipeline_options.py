"""Options of `pipeline(...)`: model, device, precision, threads."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnclip
from cnclip import errors
from cnclip.engine import cuda_count
from cnclip.pipelines import MultiModalEmbeddingPipeline, pipeline
from cnclip.pipelines.builder import choose_device
from cnclip.utils.constant import Tasks
from tests.support.answers import rows


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"task": "image-captioning"}, ValueError, "task: expected one of multi-modal-embedding"),
        ({"task": None}, ValueError, "task"),
        ({"model": None}, ValueError, "model: expected an archive"),
        ({"model": 5}, TypeError, "model: expected a name or path, got int"),
        ({"model": b"emoji-cn"}, TypeError, "model: .*got bytes"),
        ({"model": "nobody/nowhere"}, FileNotFoundError, "no model 'nobody/nowhere'"),
        ({"model": "a" * 5000}, FileNotFoundError, "no model"),
        ({"model": "~nobody-of-this-name/model"}, FileNotFoundError, "no model"),
        ({"model": "a\0b"}, FileNotFoundError, "no model"),
        ({"precision": "fp64"}, ValueError, "precision: .*got 'fp64'"),
        ({"precision": "fp16"}, errors.DeviceError, "precision fp16 needs a GPU, .*use fp32"),
        ({"precision": None}, ValueError, "precision"),
        ({"return_tensors": "tf"}, ValueError, "return_tensors: expected 'np' or 'pt'"),
        ({"return_tensors": None}, ValueError, "return_tensors"),
        ({"num_threads": 0}, ValueError, "num_threads: expected 1 to"),
        ({"num_threads": -4}, ValueError, "num_threads: expected 1 to"),
        ({"num_threads": 10_000}, ValueError, "num_threads: expected 1 to"),
        ({"num_threads": 2**80}, ValueError, "num_threads: expected 1 to"),
        ({"num_threads": "2"}, TypeError, "num_threads: expected int, got str"),
        ({"num_threads": 1.5}, TypeError, "num_threads: expected int, got float"),
        ({"num_threads": True}, TypeError, "num_threads: expected int, got bool"),
        ({"device": "tpu"}, ValueError, "device: expected 'cpu', 'gpu' or 'cuda:N', got 'tpu'"),
        ({"device": ""}, ValueError, "device"),
        ({"device": None}, ValueError, "device"),
        ({"device": 0}, ValueError, "device"),
        ({"device": "cuda:-1"}, ValueError, "device"),
        ({"device": "cuda:1000"}, ValueError, "device"),
        ({"device": "cpu:0"}, ValueError, "device"),
        ({"device": "CPU"}, ValueError, "device"),
        ({"resize": "cuda"}, ValueError, "resize: expected 'cpu' or 'gpu', got 'cuda'"),
        ({"resize": None}, ValueError, "resize"),
        (
            {"resize": "gpu", "device": "cpu"},
            errors.DeviceError,
            "^resize='gpu': the model is on the CPU; leave it out, or choose a GPU$",
        ),
    ],
    ids=str,
)
def test_wrong_options(
    archive: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(cnclip.CnclipError, match=message) as raised:
        pipeline(**{"model": archive, **options})
    assert isinstance(raised.value, error)


@pytest.mark.skipif(cuda_count() > 0, reason="this machine has a GPU")
def test_without_a_gpu(archive: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="cnclip"):
        fallen_back = pipeline(model=archive)
    assert fallen_back.model.device == "cpu"
    assert choose_device("gpu") == "cpu"
    assert not caplog.records  # no GPU was asked for by its number
    assert choose_device("gpu:1") == "cpu"
    assert len(caplog.records) == 1
    assert "torch finds 0 GPUs here, using the CPU" in caplog.text
    for device in ("cuda", "cuda:0"):
        # The device is refused before a model is looked for.
        with pytest.raises(errors.DeviceError, match=f"no device '{device}': torch finds 0 GPUs"):
            pipeline(model="nowhere", device=device)


def test_more_processes_than_gpus(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that a launcher gave a GPU which is not there does not take the CPU in silence."""
    monkeypatch.setattr("cnclip.pipelines.builder.cuda_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with caplog.at_level(logging.WARNING, logger="cnclip"):
        assert choose_device("gpu") == "cpu"
    assert "device 'gpu': torch finds 1 GPUs here, using the CPU" in caplog.text


def test_devices_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnclip.pipelines.builder.cuda_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    expected = {"gpu": "cuda:0", "gpu:1": "cuda:1", "cuda": "cuda:0", "cuda:1": "cuda:1"}
    assert {device: choose_device(device) for device in expected} == expected
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device("gpu") == "cuda:1"
    assert choose_device("cuda") == "cuda:0"
    assert choose_device("cpu") == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "first")
    assert choose_device("gpu") == "cuda:0"
    assert choose_device("gpu:2") == "cpu"
    with pytest.raises(errors.DeviceError, match="no device 'cuda:2': torch finds 2 GPUs"):
        choose_device("cuda:2")


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_num_threads(
    archive: Path, vit: MultiModalEmbeddingPipeline, texts: list[str], num_threads: int
) -> None:
    other = pipeline(model=archive, device="cpu", num_threads=num_threads)
    assert other.model.encoder.num_threads == num_threads
    np.testing.assert_allclose(
        rows(other.forward({"text": texts})),
        rows(vit.forward({"text": texts})),
        rtol=0,
        atol=2e-6,
    )


def test_num_threads_leave_torch_alone(archive: Path) -> None:
    import torch

    before = torch.get_num_threads()
    other = pipeline(model=archive, device="cpu", num_threads=before + 1)
    other.forward({"text": "猫"})
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("task", [Tasks.multi_modal_embedding, Tasks.image_text_retrieval])
def test_both_tasks(archive: Path, task: str) -> None:
    assert pipeline(task, archive, device="cpu").model.device == "cpu"
    assert pipeline(task=task, model=str(archive), device="cpu").model.info.embed_dim == 64
