"""Whole runs on small models: which weights they train, and which files they write."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from cnclip import pipeline  # noqa: E402
from cnclip.cli import main  # noqa: E402
from cnclip.errors import (  # noqa: E402
    ModelRunError,
)
from cnclip.evaluate import retrieval  # noqa: E402
from cnclip.models import read_checkpoint  # noqa: E402
from cnclip.train import TrainReport, finetune  # noqa: E402
from tests.support.training import (  # noqa: E402
    ENVIRONMENT,
    SMALL,
    VISION,
    losses_of,
)


def test_learns_64_pairs_by_heart(trained: tuple[Path, TrainReport], data: Path) -> None:
    output, report = trained
    assert report.best is not None
    assert report.best[0]["R@1"] == 100 and report.best[1]["R@1"] == 100
    assert (report.steps, report.before, report.skipped) == (120, None, 0)
    # The written weights have the reported recall in cnclip.evaluate.
    for model in (output / "best", output / "best.cnclip.pt"):
        found = retrieval(data, pipeline(model=model, device="cpu"), split="train")
        assert found.text_to_image == report.best[0]
        assert found.image_to_text == report.best[1]
    assert {path.name for path in output.iterdir()} >= {
        "best",
        "best.cnclip.pt",
        "last.pt",
        "metrics.jsonl",
        "options.json",
    }
    # Its description says how its texts were normalised, and archives keep that.
    assert pipeline(model=output / "best.cnclip.pt", device="cpu").model.info.normalizes_texts
    assert read_checkpoint(output / "best").normalized_texts
    losses = losses_of(output)
    assert min(losses) == 20 and losses[120] < losses[20] / 5


def test_curve_and_events_are_written(trained: tuple[Path, TrainReport]) -> None:
    pytest.importorskip("matplotlib")
    output, _ = trained
    with Image.open(output / "curve.png") as image:
        assert image.size == (900, 700)
        assert len(image.convert("L").getcolors() or []) > 10
    pytest.importorskip("tensorboard")
    assert list((output / "tensorboard").iterdir())


def test_an_average_of_the_weights_is_kept(sizes: Path, data: Path, tmp_path: Path) -> None:
    options = SMALL | {"max_steps": 20, "from_scratch": True, "show_progress": False}
    finetune(sizes, data, tmp_path / "plain", **options)
    finetune(sizes, data, tmp_path / "averaged", **options, ema_decay=0.8)
    assert losses_of(tmp_path / "averaged") == losses_of(tmp_path / "plain")
    plain, averaged = (
        read_checkpoint(tmp_path / n / "best").weights for n in ("plain", "averaged")
    )
    state = torch.load(tmp_path / "averaged" / "last.pt", weights_only=True)
    name = "text_projection"
    assert not torch.equal(plain[name], averaged[name])
    torch.testing.assert_close(plain[name].float(), state["model"][name], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(averaged[name].float(), state["average"][name], rtol=1e-3, atol=1e-5)


def test_a_loss_that_is_not_finite_ends_the_run(sizes: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = SMALL | {"max_steps": 50, "warmup": 0, "save_step_frequency": 1, "log_interval": 7}
    with pytest.raises(ModelRunError, match=r"(the loss is nan|no longer finite) at step"):
        finetune(sizes, data, run, from_scratch=True, show_progress=False, **options | {"lr": 1e30})
    if (run / "last.pt").exists():
        state = torch.load(run / "last.pt", weights_only=True)
        assert all(bool(weight.isfinite().all()) for weight in state["model"].values())


def test_training_continues_from_a_trained_model_and_reports_recall_before(
    trained: tuple[Path, TrainReport], data: Path, tmp_path: Path
) -> None:
    output, report = trained
    again = finetune(
        output / "best",
        data,
        tmp_path / "run",
        val=data,
        val_split="train",
        show_progress=False,
        **SMALL | {"max_steps": 1, "lr": 1e-6},
    )
    assert again.before is not None and again.before == report.best
    weights = read_checkpoint(tmp_path / "run" / "best").weights
    before = read_checkpoint(output / "best").weights
    assert weights.keys() == before.keys()
    assert all((weights[name] - before[name]).abs().max() < 1e-3 for name in weights)


def test_frozen_vision_tower_is_unchanged_to_the_bit(
    trained: tuple[Path, TrainReport], data: Path, tmp_path: Path
) -> None:
    output, _ = trained
    finetune(
        output / "best.cnclip.pt",
        data,
        tmp_path / "run",
        show_progress=False,
        **SMALL | {"max_steps": 3, "freeze_vision": True},
    )
    before, after = read_checkpoint(output / "best"), read_checkpoint(tmp_path / "run" / "best")
    for name, weight in before.weights.items():
        same = torch.equal(weight, after.weights[name])
        assert same == name.startswith("visual.") or "LayerNorm.bias" in name, name


def test_options_that_leave_losses_unchanged(sizes: Path, data: Path, tmp_path: Path) -> None:
    """Parts of a batch, workers and recomputed activations do not change the losses."""
    losses = []
    for number, more in enumerate(
        (
            {"batch_size": 32},
            {"batch_size": 8, "accum_freq": 4},
            {"batch_size": 32, "num_workers": 2, "grad_checkpointing": True},
        )
    ):
        output = tmp_path / str(number)
        finetune(
            sizes,
            data,
            output,
            from_scratch=True,
            show_progress=False,
            **SMALL | {"max_steps": 5, "augment": "photo"} | more,
        )
        losses.append([losses_of(output)[step] for step in range(1, 6)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-4)


@pytest.mark.slow
def test_adapters_are_merged(trained: tuple[Path, TrainReport], data: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    output, _ = trained
    run = tmp_path / "run"
    report = finetune(
        output / "best",
        data,
        run,
        val=data,
        val_split="valid",
        show_progress=False,
        **SMALL | {"max_steps": 4, "lora_rank": 4, "save_step_frequency": 2},
    )
    before, after = read_checkpoint(output / "best"), read_checkpoint(run / "best")
    changed = {
        name
        for name, weight in before.weights.items()
        if not torch.equal(weight, after.weights[name])
    }
    assert "visual.transformer.resblocks.0.attn.in_proj_weight" in changed
    assert "bert.encoder.layer.1.attention.self.query.weight" in changed
    # Only the weights of linear layers and the scale.
    assert not {n for n in changed if "LayerNorm" in n or "bias" in n or "embedding" in n}
    assert report.best is not None
    found = retrieval(data, pipeline(model=run / "best", device="cpu"), split="valid")
    assert found.text_to_image == report.best[0]


def test_adapters_leave_statistics_unchanged(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    golden = Path(__file__).parents[1] / "data" / "golden" / "tiny-rn"
    options = SMALL | {"max_steps": 2, "lora_rank": 2, "batch_size": 8, "accum_freq": 2}
    finetune(golden, data, tmp_path / "run", show_progress=False, **options)
    before, after = (
        read_checkpoint(golden).weights,
        read_checkpoint(tmp_path / "run" / "best").weights,
    )
    names = [name for name in before if "running" in name]
    assert names and all(
        torch.equal(before[name].half().float(), after[name].half().float()) for name in names
    )


@pytest.mark.slow
def test_distillation_from_a_teacher(
    trained: tuple[Path, TrainReport], sizes: Path, data: Path, tmp_path: Path
) -> None:
    """The teacher has another resolution and width; its loss makes the student similar to it."""
    output, _ = trained
    small = tmp_path / "small"
    small.mkdir()
    for name in ("vocab.txt", "text_model_config.json"):
        (small / name).write_bytes((sizes / name).read_bytes())
    smaller = VISION | {"embed_dim": 16, "image_resolution": 24, "vision_layers": 1}
    (small / "vision_model_config.json").write_text(json.dumps(smaller))
    losses = []
    for weight in (0.0, 5.0):
        run = tmp_path / f"run-{weight}"
        finetune(
            small,
            data,
            run,
            from_scratch=True,
            show_progress=False,
            **SMALL
            | {
                "max_steps": 30,
                "batch_size": 32,
                "kd_loss_weight": weight,
                "teacher_model_name": str(output / "best"),
            },
        )
        losses.append(losses_of(run))
    assert losses[1][1] > losses[0][1]
    assert losses[1][30] < losses[1][1] - 1


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(sizes: Path, data: Path, tmp_path: Path) -> None:
    common = [
        "--model",
        str(sizes),
        "--train",
        str(data),
        "--val",
        str(data),
        "--max-steps",
        "6",
        "--text-dropout",
        "0",
        "--num-workers",
        "0",
        "--from-scratch",
        "--device",
        "cpu",
        "--lr",
        "1e-3",
        "--warmup",
        "2",
        "--log-interval",
        "1",
    ]
    one, two = tmp_path / "one", tmp_path / "two"
    arguments = ["train", *common, "--batch-size", "32", "-o", str(one)]
    assert main(arguments) == 0
    subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            "-m",
            "cnclip",
            "train",
            *common,
            "--batch-size",
            "16",
            "-o",
            str(two),
        ],
        check=True,
        env=ENVIRONMENT,
        timeout=150,
        capture_output=True,
    )
    expected, found = losses_of(one), losses_of(two)
    np.testing.assert_allclose(
        [found[step] for step in range(1, 7)], [expected[step] for step in range(1, 7)], rtol=1e-4
    )
    recalls = [
        [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()][-1]
        for output in (one, two)
    ]
    assert recalls[0]["text_to_image"].keys() == recalls[1]["text_to_image"].keys()
    assert abs(recalls[0]["text_to_image"]["MR"] - recalls[1]["text_to_image"]["MR"]) < 10
