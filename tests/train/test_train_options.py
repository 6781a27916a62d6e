"""Options of a run: files, the command line, and values that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from cnclip.cli import main  # noqa: E402
from cnclip.errors import (  # noqa: E402
    CnclipError,
)
from cnclip.train import TrainOptions, finetune  # noqa: E402


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
