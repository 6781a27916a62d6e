"""Options of a run: files, the command line, and values that cannot be used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from cnclip.cli import main  # noqa: E402
from cnclip.datasets import write_split  # noqa: E402
from cnclip.errors import CnclipError, InvalidInputError  # noqa: E402
from cnclip.train import TrainOptions, finetune  # noqa: E402
from tests.support.training import SMALL, WORDS, png, write_pairs  # noqa: E402


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
        ({"precision": "fp16", "device": "cpu"}, "precision: fp16 requires a GPU"),
        ({"device": "tpu"}, "device: expected"),
        ({"device": "cuda:99"}, "no device 'cuda:99'"),
        ({"rare_texts": 0.5}, "rare_texts: requires sampling=images"),
        ({"freeze_vision": True, "mask_ratio": 0.5}, "mask_ratio: requires a trained"),
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
    with pytest.raises(CnclipError, match=message):
        finetune(sizes, data, tmp_path / "run", from_scratch=True, show_progress=False, **options)
    assert not (tmp_path / "run" / "last.pt").exists()


def test_command_names_missing_arguments(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        (["--model", "emoji-cn", "--train", str(data)], "-o RUN is required"),
        (["-o", str(tmp_path / "r"), "--train", str(data)], "--model is required"),
        (["-o", str(tmp_path / "r"), "--model", "emoji-cn"], "--train is required"),
        (["-o", str(tmp_path / "r"), "--model", "emoji-cn", "--train", "nowhere"], "no such data"),
        (["-o", str(tmp_path / "r"), "--config", "x.toml"], "x.toml: cannot be read"),
    ):
        assert main(["train", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_training_and_validation_on_the_same_pairs_has_to_be_asked_for(
    sizes: Path, tmp_path: Path
) -> None:
    write_pairs(tmp_path / "data", "train", 8)
    options = SMALL | {"max_steps": 1, "from_scratch": True, "show_progress": False}
    folder, run = tmp_path / "data", tmp_path / "run"
    with pytest.raises(InvalidInputError, match="^val: has the same pairs as train") as error:
        finetune(sizes, folder, run, val=folder, **options)
    assert "set val_split to 'train'" in error.value.reason
    assert not run.exists()
    # A copy is the same data, too.
    shutil.copytree(folder, tmp_path / "copy")
    with pytest.raises(InvalidInputError, match="^val: has the same pairs as train"):
        finetune(sizes, folder, run, val=tmp_path / "copy", **options)
    finetune(sizes, folder, run, val=folder, val_split="train", **options)


def test_data_without_names_of_splits_may_be_asked_for_too(sizes: Path, tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    rows = [{"file_name": f"{number}.png", "text": WORDS[number]} for number in range(4)]
    file = tmp_path / "metadata.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = SMALL | {"max_steps": 1, "from_scratch": True, "show_progress": False}
    with pytest.raises(InvalidInputError, match="^val: has the same pairs as train") as error:
        finetune(sizes, tmp_path, tmp_path / "run", val=tmp_path, **options)
    split = error.value.reason.partition("set val_split to '")[2].partition("'")[0]
    finetune(sizes, tmp_path, tmp_path / "run", val=tmp_path, val_split=split, **options)


def test_rows_that_were_left_out_give_exit_status_1(
    sizes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [(i, png(i)) for i in range(4)]
    texts = [(i, WORDS[i], [i]) for i in range(4)]
    write_split(tmp_path / "data", "train", images, [*texts, (9, "没有图片", [77])])
    write_split(tmp_path / "whole", "train", images, texts)
    for name, status in (("data", 1), ("whole", 0)):
        arguments = ["--model", str(sizes), "--train", str(tmp_path / name), "--max-steps", "1"]
        arguments += ["--from-scratch", "--batch-size", "4", "--num-workers", "0"]
        run = ["-o", str(tmp_path / f"run-{name}"), "--device", "cpu"]
        assert main(["train", *arguments, *run]) == status
        err = capsys.readouterr().err
        assert ("77" in err) == (status == 1), err


def test_no_epoch_after_the_last(
    sizes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pairs(tmp_path / "data", "train", 1)
    options = SMALL | {"max_epochs": 1, "from_scratch": True, "batch_size": 64}
    finetune(sizes, tmp_path / "data", tmp_path / "run", **options)
    err = capsys.readouterr().err
    assert "epoch 1.00:" in err
    assert "batch_size: each batch has some of the 1 pairs more than once; choose 1 or less" in err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", "- lr\n", r"a\.yaml: expected names and values"),
        ("a.json", "[1]", r"a\.json: expected names and values"),
        ("a.yaml", "lr: 1\nwd: [", r"a\.yaml:2: cannot be read: "),
        ("a.toml", "lr = ", r"a\.toml: cannot be read: "),
        ("a.txt", "lr: 1", r"a\.txt: cannot be read: expected a name that ends in \.toml"),
        ("a.json", None, r"a\.json: cannot be read: No such file"),
    ],
)
def test_files_of_no_options(name: str, content: str | None, message: str, tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InvalidInputError, match=message):
        TrainOptions.read(tmp_path / name)
