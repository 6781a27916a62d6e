"""Whole runs of training on small models: what they learn, keep, survive and refuse."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

import cnclip  # noqa: E402
from cnclip.cli import main  # noqa: E402
from cnclip.datasets import write_split  # noqa: E402
from cnclip.evaluate import retrieval  # noqa: E402
from cnclip.models import read_checkpoint  # noqa: E402
from cnclip.train import TrainOptions, finetune  # noqa: E402

SHIPPED = Path(cnclip.__file__).parent / "assets" / "emoji-cn"
WORDS = "猫狗车花山水火木金土日月星云雨雪风雷电春夏秋冬红黄蓝绿黑白大小多少上下左右东西南北"
VISION = {
    "embed_dim": 32,
    "image_resolution": 32,
    "vision_layers": 2,
    "vision_width": 64,
    "vision_patch_size": 8,
    "vision_head_width": 32,
}
TEXT = {
    "text_hidden_size": 64,
    "text_num_attention_heads": 2,
    "text_intermediate_size": 128,
    "text_num_hidden_layers": 2,
    "text_max_position_embeddings": 32,
    "text_type_vocab_size": 2,
    "text_hidden_act": "gelu",
}
# Options of every small run.
SMALL: dict[str, Any] = {
    "batch_size": 16,
    "num_workers": 0,
    "warmup": 2,
    "lr": 1e-3,
    "device": "cpu",
    "text_dropout": 0.0,
    "log_interval": 1,
}


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with sizes and a vocabulary, without weights."""
    folder = tmp_path_factory.mktemp("sizes")
    vocabulary = (SHIPPED / "vocab.txt").read_bytes()
    (folder / "vocab.txt").write_bytes(vocabulary)
    (folder / "vision_model_config.json").write_text(json.dumps(VISION))
    count = len(vocabulary.splitlines())
    (folder / "text_model_config.json").write_text(json.dumps(TEXT | {"vocab_size": count}))
    return folder


def png(number: int) -> bytes:
    """An image of its own colours."""
    blocks = np.random.default_rng(number).integers(0, 255, (3, 3, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize((36, 30), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


def write_pairs(folder: Path, split: str, count: int) -> None:
    write_split(
        folder,
        split,
        [(i, png(i)) for i in range(count)],
        [(i, f"{WORDS[i % 40]}{WORDS[i * 7 % 39]}", [i]) for i in range(count)],
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_pairs(folder, "train", 64)
    write_pairs(folder, "valid", 20)
    return folder


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, sizes: Path, data: Path
) -> tuple[Path, cnclip.train.TrainReport]:
    """64 pairs, learnt by heart from a random start."""
    output = tmp_path_factory.mktemp("runs") / "by-heart"
    report = finetune(
        sizes,
        data,
        output,
        val=data,
        val_split="train",
        from_scratch=True,
        show_progress=False,
        **SMALL
        | {"max_steps": 120, "batch_size": 64, "log_interval": 20, "valid_step_interval": 60},
    )
    return output, report


def losses_of(output: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def test_learns_64_pairs_by_heart(
    trained: tuple[Path, cnclip.train.TrainReport], data: Path
) -> None:
    output, report = trained
    assert report.best is not None
    assert report.best[0]["R@1"] == 100 and report.best[1]["R@1"] == 100
    assert (report.steps, report.before, report.skipped) == (120, None, 0)
    # What was kept is what was measured, through the pipeline and its own evaluation.
    for model in (output / "best", output / "best.cnclip.pt"):
        found = retrieval(data, cnclip.pipeline(model=model, device="cpu"), split="train")
        assert found.text_to_image == report.best[0]
        assert found.image_to_text == report.best[1]
    assert {path.name for path in output.iterdir()} >= {
        "best",
        "best.cnclip.pt",
        "last.pt",
        "metrics.jsonl",
        "options.json",
    }
    losses = losses_of(output)
    assert min(losses) == 20 and losses[120] < losses[20] / 5


def test_curve_and_events_are_written(trained: tuple[Path, cnclip.train.TrainReport]) -> None:
    pytest.importorskip("matplotlib")
    output, _ = trained
    with Image.open(output / "curve.png") as image:
        assert image.size == (900, 700)
        assert len(image.convert("L").getcolors() or []) > 10
    pytest.importorskip("tensorboard")
    assert list((output / "tensorboard").iterdir())


def test_an_average_of_the_weights_is_kept(sizes: Path, data: Path, tmp_path: Path) -> None:
    asked = SMALL | {"max_steps": 20, "from_scratch": True, "show_progress": False}
    finetune(sizes, data, tmp_path / "plain", **asked)
    finetune(sizes, data, tmp_path / "averaged", **asked, ema_decay=0.8)
    assert losses_of(tmp_path / "averaged") == losses_of(tmp_path / "plain")
    plain, averaged = (
        read_checkpoint(tmp_path / n / "best").weights for n in ("plain", "averaged")
    )
    state = torch.load(tmp_path / "averaged" / "last.pt", weights_only=True)
    name = "text_projection"
    assert not torch.equal(plain[name], averaged[name])
    torch.testing.assert_close(plain[name].float(), state["model"][name], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(averaged[name].float(), state["average"][name], rtol=1e-3, atol=1e-5)


def test_a_loss_that_is_no_number_ends_the_run(sizes: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    asked = SMALL | {"max_steps": 50, "warmup": 0, "save_step_frequency": 1, "log_interval": 7}
    with pytest.raises(cnclip.ModelRunError, match=r"(the loss is nan|no longer finite) at step"):
        finetune(sizes, data, run, from_scratch=True, show_progress=False, **asked | {"lr": 1e30})
    if (run / "last.pt").exists():
        state = torch.load(run / "last.pt", weights_only=True)
        assert all(bool(weight.isfinite().all()) for weight in state["model"].values())


def test_goes_on_from_a_trained_model_and_tells_recall_before(
    trained: tuple[Path, cnclip.train.TrainReport], data: Path, tmp_path: Path
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


def test_frozen_vision_tower_stays_to_the_bit(
    trained: tuple[Path, cnclip.train.TrainReport], data: Path, tmp_path: Path
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


def test_options_that_change_how_but_not_what(sizes: Path, data: Path, tmp_path: Path) -> None:
    """Parts of a batch, workers and recomputed activations leave the losses as they are."""
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


COMMAND = [
    sys.executable,
    "-m",
    "cnclip",
    "train",
    "--from-scratch",
    "--device",
    "cpu",
    "--batch-size",
    "8",
    "--lr",
    "1e-3",
    "--warmup",
    "2",
    "--log-interval",
    "1",
]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def wait_for_step(output: Path, step: int, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 100
    while time.monotonic() < end and process.poll() is None:
        path = output / "metrics.jsonl"
        if path.exists() and f'"step": {step},' in path.read_text():
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} did not come: {process.communicate()}")


@pytest.mark.slow
def test_killed_and_interrupted_runs_go_on_as_if_they_had_not_been(
    sizes: Path, data: Path, tmp_path: Path
) -> None:
    more = [
        "--model",
        str(sizes),
        "--train",
        str(data),
        "--val",
        str(data),
        "--max-steps",
        "24",
        "--mask-ratio",
        "0.25",
        "--augment",
        "photo",
        "--save-step-frequency",
        "3",
        "--valid-step-interval",
        "10",
        "--num-workers",
        "1",
        "--ema-decay",
        "0.9",
    ]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(
        [*COMMAND, *more, "-o", str(whole)],
        check=True,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    arguments = [*COMMAND, *more, "-o", str(broken)]
    for step, number in ((8, signal.SIGKILL), (16, signal.SIGINT)):
        process = subprocess.Popen(
            arguments, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        wait_for_step(broken, step, process)
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
        if number == signal.SIGINT:
            assert process.returncode == 130, told
            assert "the state is saved" in told and "Traceback" not in told
        arguments = [sys.executable, "-m", "cnclip", "train", "--resume", "-o", str(broken)]
    done = subprocess.run(
        arguments, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=True
    )
    assert "resumed behind step" in done.stderr
    found, expected = losses_of(broken), losses_of(whole)
    assert sorted(found) == list(range(1, 25))
    assert found == expected
    best = [read_checkpoint(folder / "best").weights for folder in (whole, broken)]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])
    assert not list(broken.glob(".*"))


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


def test_broken_images_are_left_out_and_named(
    sizes: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "data"
    images = [(i, png(i)) for i in range(20)]
    images[3] = (3, b"not an image")
    images[11] = (11, images[11][1][:60])
    write_split(broken, "train", images, [(i, WORDS[i], [i]) for i in range(20)])
    with (broken / "train_texts.jsonl").open("a") as file:
        file.write('{"text_id": 99, "text": "", "image_ids": [1]}\nnonsense\n')
    output = tmp_path / "run"
    arguments = [
        "train",
        "--model",
        str(sizes),
        "--from-scratch",
        "--train",
        str(broken),
        "--val",
        str(broken),
        "-o",
        str(output),
        "--batch-size",
        "10",
        "--max-steps",
        "4",
        "--device",
        "cpu",
        "--num-workers",
        "0",
    ]
    assert main(arguments) == 1
    told = capsys.readouterr().err
    for name in (
        "train_imgs.tsv:4: ",
        "train_imgs.tsv:12: ",
        "train_texts.jsonl:21: ",
        "train_texts.jsonl:22: ",
    ):
        assert told.count(name) == 1, told
    named = [json.loads(line) for line in (output / "skipped.jsonl").read_text().splitlines()]
    assert {line["where"] for line in named} == {"train_imgs.tsv:4", "train_imgs.tsv:12"}
    assert sorted(losses_of(output)) == [4]


def test_data_of_which_nothing_can_be_read(sizes: Path, tmp_path: Path) -> None:
    write_split(tmp_path, "train", [(1, b"x"), (2, b"y")], [(1, "猫", [1]), (2, "狗", [2])])
    message = r"^\d+ images in a row cannot be read; the first: train_imgs.tsv:[12]: [^\n]*$"
    for workers in (0, 1):
        asked = SMALL | {"num_workers": workers, "from_scratch": True, "show_progress": False}
        with pytest.raises(cnclip.DatasetError, match=message):
            finetune(sizes, tmp_path, tmp_path / f"run-{workers}", **asked)


@pytest.mark.slow
def test_adapters_are_merged(
    trained: tuple[Path, cnclip.train.TrainReport], data: Path, tmp_path: Path
) -> None:
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
    # Nothing but linear layers' weights and the scale.
    assert not {n for n in changed if "LayerNorm" in n or "bias" in n or "embedding" in n}
    assert report.best is not None
    found = retrieval(data, cnclip.pipeline(model=run / "best", device="cpu"), split="valid")
    assert found.text_to_image == report.best[0]


@pytest.mark.slow
def test_distils_from_a_teacher(
    trained: tuple[Path, cnclip.train.TrainReport], sizes: Path, data: Path, tmp_path: Path
) -> None:
    """A teacher of another resolution and width; a student that hears it alone becomes like it."""
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


def test_options_from_files(sizes: Path, data: Path, tmp_path: Path) -> None:
    toml = tmp_path / "options.toml"
    toml.write_text(
        f'model = "{sizes}"\ntrain = "{data}"\nfrom_scratch = true\nmax-steps = 2\n'
        'lr = 1e-3\nbatch_size = 8\nnum_workers = 0\ndevice = "cpu"\n'
    )
    assert main(["train", "--config", str(toml), "-o", str(tmp_path / "a"), "--seed", "5"]) == 0
    written = json.loads((tmp_path / "a" / "options.json").read_text())
    assert (written["max_steps"], written["seed"], written["lr"]) == (2, 5, 1e-3)
    pytest.importorskip("yaml")
    yaml = tmp_path / "options.yaml"
    yaml.write_text("lr: 5e-5\nwd: 1\nuse-augment: true\n")
    assert TrainOptions(**TrainOptions.read(yaml)).lr == 5e-5
    assert TrainOptions(**TrainOptions.read(yaml)).augment == "photo"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": "fast"}, "lr: expected float"),
        ({"lr": float("nan")}, "lr: expected a finite number"),
        ({"batch_size": 0}, "batch_size: expected 1 or more"),
        ({"batch_size": True}, "batch_size: expected int"),
        ({"mask_ratio": 1.0}, "mask_ratio: expected less than 1"),
        ({"duplicates": "ignore"}, "duplicates: expected one of"),
        ({"augment": "strong"}, "augment: expected one of"),
        ({"precision": "int8"}, "precision: expected one of"),
        ({"precision": "fp16", "device": "cpu"}, "precision: fp16 is for GPUs"),
        ({"device": "tpu"}, "device: expected"),
        ({"device": "cuda:99"}, "no device 'cuda:99'"),
        ({"rare_texts": 0.5}, "rare_texts: goes with sampling=images"),
        ({"freeze_vision": True, "mask_ratio": 0.5}, "mask_ratio: goes with"),
        ({"teacher_model_name": "nowhere"}, "no model 'nowhere'"),
        ({"seed": 2**70}, "seed: expected 9223372036854775807 or less"),
        ({"nonsense": 1}, "no option 'nonsense'"),
        ({"resume": "no"}, "resume: expected bool"),
        ({"val": {}}, "val: expected a name or path"),
    ],
)
def test_options_are_refused_by_name(
    options: dict[str, Any], message: str, sizes: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(cnclip.CnclipError, match=message):
        finetune(sizes, data, tmp_path / "run", from_scratch=True, show_progress=False, **options)
    assert not (tmp_path / "run" / "last.pt").exists()


def test_runs_are_not_mixed_up(
    trained: tuple[Path, cnclip.train.TrainReport], sizes: Path, data: Path, tmp_path: Path
) -> None:
    output, _ = trained
    with pytest.raises(cnclip.InvalidInputError, match="holds a run already"):
        finetune(sizes, data, output, from_scratch=True, show_progress=False, **SMALL)
    run = tmp_path / "run"
    asked = SMALL | {"max_steps": 2}
    finetune(sizes, data, run, from_scratch=True, show_progress=False, **asked)
    with pytest.raises(cnclip.InvalidInputError, match=r"lr: 0.5, but the run to resume has 0.001"):
        finetune(
            sizes,
            data,
            run,
            from_scratch=True,
            resume=True,
            show_progress=False,
            **asked | {"lr": 0.5},
        )
    with pytest.raises(cnclip.InvalidInputError, match="^train: not the one"):
        finetune(
            sizes,
            data,
            run,
            train_split="valid",
            from_scratch=True,
            resume=True,
            show_progress=False,
            **asked,
        )
    # More steps may be asked for.
    more = finetune(
        sizes,
        data,
        run,
        from_scratch=True,
        resume=True,
        show_progress=False,
        **asked | {"max_steps": 4},
    )
    assert more.steps == 4 and sorted(losses_of(run)) == [1, 2, 3, 4]


def test_a_damaged_state_is_named(sizes: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "last.pt").write_bytes(b"nothing")
    with pytest.raises(cnclip.CheckpointError, match=r"last.pt: cannot be read"):
        finetune(sizes, data, run, from_scratch=True, resume=True, show_progress=False, **SMALL)
    torch.save({"step": 1}, run / "last.pt")
    (run / "metrics.jsonl").write_text('5\n[1]\n{"loss": 1}\n{"st')
    with pytest.raises(cnclip.CheckpointError, match="state of the run is damaged"):
        finetune(sizes, data, run, from_scratch=True, resume=True, show_progress=False, **SMALL)
    (run / "last.pt").unlink()
    finetune(
        sizes,
        data,
        run,
        from_scratch=True,
        resume=True,
        show_progress=False,
        **SMALL | {"max_steps": 1},
    )
    assert list(losses_of(run)) == [1]


def test_command_names_what_is_missing(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        (["--model", "emoji-cn", "--train", str(data)], "-o RUN is needed"),
        (["-o", str(tmp_path / "r"), "--train", str(data)], "--model is needed"),
        (["-o", str(tmp_path / "r"), "--model", "emoji-cn"], "--train is needed"),
        (["-o", str(tmp_path / "r"), "--model", "emoji-cn", "--train", "nowhere"], "no such data"),
        (["-o", str(tmp_path / "r"), "--config", "x.toml"], "x.toml: cannot be read"),
    ):
        assert main(["train", *arguments]) == 2
        assert message in capsys.readouterr().err


class InterruptedBy:
    """Sets the flag of Ctrl-C when a function is called for the nth time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, where: str, count: int) -> None:
        from cnclip.train import loop

        self.left, function = count, getattr(loop, where)

        def call(*arguments: Any, **named: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)
            return function(*arguments, **named)

        monkeypatch.setattr(loop, where, call)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_validation_that_was_interrupted_is_made_up_for(
    count: int, sizes: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the last one: there is always a best in the end, the same as of an unbroken run."""
    asked = SMALL | {
        "max_steps": 6,
        "val": data,
        "valid_step_interval": 2,
        "from_scratch": True,
        "show_progress": False,
    }
    finetune(sizes, data, tmp_path / "whole", **asked)
    run = tmp_path / "broken"
    with monkeypatch.context() as patched:
        InterruptedBy(patched, "validate", count)
        with pytest.raises(KeyboardInterrupt):
            finetune(sizes, data, run, **asked)
    finetune(sizes, data, run, resume=True, **asked)
    whole, broken = (
        [line for line in (folder / "metrics.jsonl").read_text().splitlines() if "R@1" in line]
        for folder in (tmp_path / "whole", run)
    )
    assert broken == whole
    best = [read_checkpoint(folder / "best").weights for folder in (tmp_path / "whole", run)]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])


def test_termination_of_all_processes_saves(sizes: Path, data: Path, tmp_path: Path) -> None:
    """SIGTERM to the process group, as of a batch system: workers are in no one's way."""
    run = tmp_path / "run"
    process = subprocess.Popen(
        [
            *COMMAND,
            "--model",
            str(sizes),
            "--train",
            str(data),
            "-o",
            str(run),
            "--max-steps",
            "100000",
            "--num-workers",
            "2",
        ],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for_step(run, 3, process)
    os.killpg(process.pid, signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and "the state is saved" in told, told
    assert (run / "last.pt").exists()


def test_a_full_disk_is_an_oserror(sizes: Path, data: Path, tmp_path: Path) -> None:
    script = (
        "import resource, sys; from cnclip.train import finetune\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try: finetune(sys.argv[1], sys.argv[2], sys.argv[3], from_scratch=True, max_steps=2,\n"
        "              batch_size=8, num_workers=0, device='cpu', save_step_frequency=1)\n"
        "except OSError as error: print('OSError', error.errno)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(sizes), str(data), str(tmp_path / "run")],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith("OSError 27"), done
    assert not list((tmp_path / "run").glob(".*"))


def test_folders_of_others_are_left_alone(sizes: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "best").mkdir(parents=True)
    (run / "best" / "mine.txt").write_text("mine")
    (run / ".notes.tmp").write_text("mine")
    with pytest.raises(cnclip.InvalidInputError, match=r"holds a run already \(best\)"):
        finetune(sizes, data, run, from_scratch=True, show_progress=False, **SMALL)
    (run / "best").rename(run / "other")
    finetune(sizes, data, run, from_scratch=True, show_progress=False, **SMALL | {"max_steps": 1})
    assert (run / ".notes.tmp").read_text() == (run / "other" / "mine.txt").read_text() == "mine"


def test_counts_of_skipped_images_go_on_when_resumed(sizes: Path, tmp_path: Path) -> None:
    images = [(i, png(i)) for i in range(8)] + [(9, b"broken")]
    write_split(tmp_path / "data", "train", images, [(i, WORDS[i], [i]) for i, _ in images])
    asked = SMALL | {"batch_size": 9, "from_scratch": True, "show_progress": False}
    run = tmp_path / "run"
    first = finetune(sizes, tmp_path / "data", run, **asked, max_steps=2)
    second = finetune(sizes, tmp_path / "data", run, **asked, max_steps=4, resume=True)
    assert 0 < first.skipped < second.skipped
    assert len((run / "skipped.jsonl").read_text().splitlines()) == 1


def test_adapters_leave_statistics_as_they_are(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    golden = Path(__file__).parents[1] / "data" / "golden" / "tiny-rn"
    asked = SMALL | {"max_steps": 2, "lora_rank": 2, "batch_size": 8, "accum_freq": 2}
    finetune(golden, data, tmp_path / "run", show_progress=False, **asked)
    before, after = (
        read_checkpoint(golden).weights,
        read_checkpoint(tmp_path / "run" / "best").weights,
    )
    names = [name for name in before if "running" in name]
    assert names and all(
        torch.equal(before[name].half().float(), after[name].half().float()) for name in names
    )


LAYOUTS = ("tsv", "lmdb", "folder", "csv", "tars", "parquet")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_trains_alike(layout: str, sizes: Path, tmp_path: Path) -> None:
    """The same pairs, read by worker processes from wherever they lie, have the same losses."""
    from tests.datasets import test_pairs

    losses = []
    for name in ("tsv", layout):
        folder = tmp_path / f"data-{name}-{len(losses)}"
        folder.mkdir()
        data = getattr(test_pairs, f"make_{name}")(folder)
        run = tmp_path / f"run-{len(losses)}"
        asked = SMALL | {"max_steps": 2, "batch_size": 6, "num_workers": int(bool(losses))}
        finetune(sizes, data, run, from_scratch=True, show_progress=False, **asked)
        losses.append(losses_of(run))
    # The readers keep the order of the pairs; a parquet's row groups are shuffled on their own.
    if layout == "parquet":
        assert losses[1].keys() == losses[0].keys()
    else:
        assert losses[1] == pytest.approx(losses[0], rel=1e-5)
