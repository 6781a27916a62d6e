"""Training on a GPU, in each precision, and by two processes that have one GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnclip import cli
from cnclip.evaluate import retrieval
from cnclip.pipelines import pipeline
from tests.support.training import ENVIRONMENT, SMALL, losses_of

STEPS = 20
LEARNING = SMALL | {
    "device": "cuda:0", "max_steps": STEPS, "batch_size": 32, "from_scratch": True,
    "show_progress": False,
}  # fmt: skip


def losses(sizes: Path, pairs: Path, output: Path, **more: Any) -> list[float]:
    from cnclip.train import finetune

    finetune(sizes, pairs, output, **LEARNING | more)
    found = losses_of(output)
    return [found[step] for step in range(1, STEPS + 1)]


@pytest.fixture(scope="module")
def expected(sizes: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses in float32 on a CPU."""
    return losses(sizes, pairs, tmp_path_factory.mktemp("cpu") / "run", device="cpu")


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({}, 1e-3),
        ({"grad_checkpointing": True}, 1e-3),
        ({"batch_size": 8, "accum_freq": 4, "num_workers": 2}, 1e-3),
        ({"max_grad_norm": 100.0, "ema_decay": 0.9}, 1e-3),
        ({"precision": "bf16"}, 5e-2),
        (
            {"precision": "bf16", "grad_checkpointing": True, "accum_freq": 2, "batch_size": 16},
            5e-2,
        ),
        ({"precision": "fp16"}, 2e-2),
        ({"precision": "fp16", "grad_checkpointing": True, "max_grad_norm": 100.0}, 2e-2),
    ],
    ids=lambda value: ",".join(map(str, value)) or "plain" if isinstance(value, dict) else "",
)
def test_losses_are_those_of_the_cpu(
    sizes: Path, pairs: Path, tmp_path: Path, expected: list[float], options: Any, tolerance: float
) -> None:
    found = losses(sizes, pairs, tmp_path / "run", **options)
    print(f"largest relative difference {np.abs(np.divide(found, expected) - 1).max():.1e}")
    np.testing.assert_allclose(found, expected, rtol=tolerance)
    assert found[-1] < found[0] - 0.5


def test_a_compiled_model(sizes: Path, pairs: Path, tmp_path: Path, expected: list[float]) -> None:
    found = losses(sizes, pairs, tmp_path / "run", compile=True, precision="bf16")
    np.testing.assert_allclose(found, expected, rtol=5e-2)


def test_dropout_is_repeated_in_parts(sizes: Path, pairs: Path, tmp_path: Path) -> None:
    """Parts of a batch are computed twice, with the same random numbers, whatever recomputes."""
    more = {"text_dropout": 0.2, "batch_size": 8, "accum_freq": 4}
    plain = losses(sizes, pairs, tmp_path / "plain", **more)
    recomputed = losses(sizes, pairs, tmp_path / "less", grad_checkpointing=True, **more)
    np.testing.assert_allclose(recomputed, plain, rtol=1e-3)


def test_resumed_and_written(
    sizes: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnclip.train import finetune
    from cnclip.train.validate import Validator

    more = {"text_dropout": 0.1, "mask_ratio": 0.25, "save_step_frequency": 4}
    options = LEARNING | more | {"val": pairs, "val_split": "valid", "valid_step_interval": 10}
    whole = finetune(sizes, pairs, tmp_path / "whole", **options)

    def end(*_: object, **__: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="the disk is full"):
        patch.setattr(Validator, "measure", end)
        finetune(sizes, pairs, tmp_path / "broken", **options)
    assert max(losses_of(tmp_path / "broken")) == 10
    finetune(sizes, pairs, tmp_path / "broken", resume=True, **options)
    found, expected = (losses_of(tmp_path / name) for name in ("broken", "whole"))
    assert sorted(found) == sorted(expected) == list(range(1, STEPS + 1))
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-3)
    # The written weights have the reported recall.
    opened = pipeline(model=tmp_path / "whole" / "best", device="cuda:0")
    recall = retrieval(pairs, opened, split="valid").text_to_image
    assert whole.best is not None
    assert all(abs(recall[k] - whole.best[0][k]) <= 5 for k in ("R@1", "R@5", "R@10"))


COMMAND = ["train", "--from-scratch", "--batch-size", "16", "--max-steps", "3", "--warmup", "1"]
COMMAND += ["--num-workers", "0", "--log-interval", "1"]


def test_the_command(sizes: Path, pairs: Path, tmp_path: Path) -> None:
    arguments = [
        *COMMAND,
        "--model",
        str(sizes),
        "--train",
        str(pairs),
        "-o",
        str(tmp_path / "run"),
    ]
    assert cli.main([*arguments, "--device", "gpu", "--precision", "bf16"]) == 0
    assert len(losses_of(tmp_path / "run")) == 3


@pytest.mark.parametrize("device", ["gpu", "cuda:0"])
def test_two_processes_on_one_gpu(sizes: Path, pairs: Path, tmp_path: Path, device: str) -> None:
    """nccl requires a GPU for each process: the error says so in one line."""
    import torch

    if device == "gpu" and torch.cuda.device_count() > 1:
        pytest.skip("each process has its own GPU here")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"),
            *("2", "-m", "cnclip", *COMMAND, "--model", sizes, "--train", pairs),
            *("-o", tmp_path / "run", "--device", device),
        ],
        env=ENVIRONMENT,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "cnclip train:" in line]
    print("\n".join(lines))
    if device == "gpu":
        reason = "no device 'gpu' for process 2 of this machine: torch finds 1 GPU; start one"
    else:
        reason = "device: nccl cannot connect the processes, each of which needs its own GPU: "
    assert any(reason in line for line in lines), done.stderr[-3000:]
    assert "Traceback (most recent call last):\n" not in done.stderr.partition("torch.dist")[0]
