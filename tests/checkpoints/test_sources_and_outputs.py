"""`convert`: sources, outputs, limits of formats, and full disks."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cnclip
from cnclip import cli, models, pipeline
from cnclip.archive import read_archive
from cnclip.checkpoints.checkpoint import Checkpoint
from cnclip.checkpoints.modelscope import write_modelscope
from cnclip.convert import convert
from cnclip.errors import CheckpointError, InputTypeError, InvalidInputError
from cnclip.modeling.config import ClipConfig, TextConfig, VisionConfig
from tests.support.families import WORDS, random_weights
from tests.support.fork_server import ForkServer

pytest.importorskip("safetensors")

FORMATS = ["archive", "cn_clip", "modelscope", "huggingface"]
HINTS = {"vision_head_width": 16, "text_head_width": 8}


def write(directory: Path, *, swap: str = "", **sizes: Any) -> Path:
    """A ModelScope directory of a small model; without arguments a `.pt` file records all sizes.

    Args:
        directory: Is made.
        swap: Two words of the vocabulary that change their places.
        sizes: Of the towers, `vision` and `text`.
    """
    vision = {"resolution": 32, "layers": 1, "width": 64, "patch_size": 8}
    text = {"vocab_size": 21128, "width": 64, "layers": 1, "heads": 1, "intermediate_width": 64}
    text |= {"max_positions": 64, "type_vocab_size": 2}
    config = ClipConfig(
        24,
        VisionConfig(**(vision | sizes.get("vision", {}))),
        TextConfig(**(text | sizes.get("text", {}))),
    )
    words = WORDS.read_bytes()
    if swap:
        one, other = (f"\n{word}\n".encode() for word in swap)
        words = words.replace(one, b"\n\0\n").replace(other, one).replace(b"\n\0\n", other)
    directory.mkdir()
    write_modelscope(Checkpoint(config, random_weights(config), words, True), directory)
    return directory


def weights_of(directory: Path) -> dict[str, torch.Tensor]:
    weights = torch.load(directory / "pytorch_model.bin", weights_only=True)["state_dict"]
    return {name.removeprefix("module."): value for name, value in weights.items()}


@pytest.fixture
def weights(vit_directory: Path) -> dict[str, torch.Tensor]:
    """Those of tiny-vit."""
    return weights_of(vit_directory)


@pytest.fixture
def source(tmp_path: Path, weights: dict[str, torch.Tensor]) -> Path:
    """tiny-vit as a `.pt` file."""
    path = tmp_path / "source.pt"
    torch.save(weights, path)
    return path


# What a .pt file does not tell


def rows(model: Path) -> dict[str, Any]:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 50, 3), np.uint8))
    return pipeline(model=model, device="cpu").forward({"img": image, "text": "猫在家"})


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ({}, ""),
        ({"vision": {"head_width": 16}}, "--vision-head-width 16 --text-head-width 64"),
        ({"text": {"width": 320, "heads": 4}}, "--vision-head-width 64 --text-head-width 80"),
        ({"text": {"width": 160, "heads": 2}}, ""),  # only heads of 80 fit
        ({"swap": "猫狗"}, "--vocabulary FILE"),
    ],
    ids=str,
)
def test_what_must_be_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, sizes: dict[str, Any], options: str
) -> None:
    model = write(tmp_path / "model", **sizes)
    with caplog.at_level(logging.WARNING, logger="cnclip"):
        path = convert(model, tmp_path / "a.pt", to="cn_clip")
    assert options in caplog.text
    assert ("to cnclip convert" in caplog.text) == bool(options)
    words = options.replace("FILE", str(model / "vocab.txt")).split()
    archive = tmp_path / "a.cnclip.pt"
    assert cli.main(["convert", str(path), "-o", str(archive), *words]) == 0
    for key, value in rows(model).items():
        assert np.array_equal(rows(archive)[key], value)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"vision": {"resolution": 38}}, "vision tower's resolution: 38 would be read as 32"),
        ({"text": {"activation": "relu"}}, "text tower's activation: 'relu' would be read as 'ge"),
    ],
    ids=str,
)
def test_what_cannot_be_told(tmp_path: Path, sizes: dict[str, Any], message: str) -> None:
    model = write(tmp_path / "model", **sizes)
    with pytest.raises(
        CheckpointError, match=rf"model: cn_clip's format cannot store the {message}"
    ):
        convert(model, tmp_path / "a.pt", to="cn_clip")
    assert not (tmp_path / "a.pt").exists()


@pytest.mark.parametrize("to", ["cn_clip", "modelscope"])
def test_other_means_have_no_place(tmp_path: Path, vit_directory: Path, to: str) -> None:
    model = convert(vit_directory, tmp_path / "model", to="huggingface")
    settings = json.loads((model / "preprocessor_config.json").read_text())
    settings["image_mean"] = [0.9, 0.1, 0.5]
    (model / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"model: .* cannot store a mean"):
        convert(model, tmp_path / "a.pt", to=to)


@pytest.mark.parametrize("width", [0, -1])
def test_head_widths_that_are_none(source: Path, tmp_path: Path, width: int) -> None:
    with pytest.raises(InvalidInputError, match="vision_head_width: expected 1 or more"):
        convert(source, tmp_path / "a.pt", vision_head_width=width)


@pytest.mark.parametrize("width", [True, 8.0, "8"])
def test_head_widths_of_other_types(source: Path, tmp_path: Path, width: Any) -> None:
    with pytest.raises(InputTypeError, match="vision_head_width: expected int"):
        convert(source, tmp_path / "a.pt", vision_head_width=width)


# Weights that share their numbers, or hold more than they show


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("form", ["tied", "overlapping", "in a large one"])
def test_shared_numbers(
    tmp_path: Path, weights: dict[str, torch.Tensor], form: str, to: str
) -> None:
    names = [name for name, value in weights.items() if value.shape == (64,)]
    large = torch.linspace(-1, 1, 5_000_000)
    if form == "tied":
        changed = dict.fromkeys(names, large[:64].clone())
    elif form == "overlapping":
        changed = {name: large[i : i + 64] for i, name in enumerate(names)}
    else:
        changed = {"logit_scale": large[-1]}
    path = tmp_path / "source.pt"
    torch.save(weights | changed, path)
    output = convert(path, tmp_path / "out.pt", to=to, **HINTS)
    files = [output] if output.is_file() else list(output.iterdir())
    assert sum(file.stat().st_size for file in files) < 4_000_000
    if to == "cn_clip":
        again = torch.load(output, weights_only=True)["state_dict"]
        assert all(torch.equal(again[f"module.{name}"], changed[name]) for name in changed)


# Files that are none


def pipe(path: Path) -> None:
    os.mkfifo(path)


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("name", ["a.pt", "a.bin", "a.cnclip.pt", "a"])
@pytest.mark.parametrize("make", [pipe, zeros])
def test_sources_that_are_no_files(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    path = tmp_path / name
    make(path)
    for run in (models.open_archive, models.read_checkpoint):
        with pytest.raises(
            cnclip.errors.ArchiveError, match="expected a file or a model directory"
        ):
            run(path)
    with pytest.raises(cnclip.errors.ArchiveError, match="expected a file or a model directory"):
        convert(path, tmp_path / "out.pt")


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("pipe", pipe, "there is no such file"),
        ("zeros", zeros, "there is no such file"),
        ("folder", Path.mkdir, "there is no such file"),
        ("nowhere", lambda path: None, "there is no such file"),
        ("a\0b", lambda path: None, "there is no such file"),
        ("\udcff", lambda path: None, "there is no such file"),
        ("empty", Path.touch, r"no token \[PAD\]"),
        ("large", lambda path: (path.touch(), os.truncate(path, 100 << 30)), "67108864 at most"),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_vocabularies_that_are_none(
    source: Path, tmp_path: Path, name: str, make: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / name
    make(path)
    with pytest.raises(CheckpointError, match=message):
        convert(source, tmp_path / "out.pt", vocabulary=path, **HINTS)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["model", "model/pytorch_model.bin", "a.pt", "a.cnclip.pt"])
def test_sources_that_may_not_be_read(
    tmp_path: Path, vit_directory: Path, source: Path, archive: Path, name: str
) -> None:
    shutil.copytree(vit_directory, tmp_path / "model")
    shutil.copy(source, tmp_path / "a.pt")
    shutil.copy(archive, tmp_path / "a.cnclip.pt")
    path = tmp_path / name
    path.chmod(0o600 if path.is_dir() else 0)
    try:
        with pytest.raises((CheckpointError, cnclip.errors.ArchiveError), match="cannot be read"):
            models.open_archive(tmp_path / name.partition("/")[0])
    finally:
        path.chmod(0o700)


# Outputs


@pytest.mark.parametrize("to", FORMATS)
def test_outputs_that_cannot_be(
    vit_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "link.pt").symlink_to("folder.pt")
    (tmp_path / "nowhere.pt").symlink_to("nothing")
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    outputs = ["", ".", "..", "/", "a\0b.pt", "link.pt", "nowhere.pt", "pipe.pt", "full"]
    before = sorted(os.listdir())
    for output in outputs:
        with pytest.raises((InvalidInputError, FileExistsError)):
            convert(vit_directory, output, to=to)
    assert sorted(os.listdir()) == before
    assert (tmp_path / "pipe.pt").is_fifo()


@pytest.mark.parametrize("to", ["archive", "cn_clip"])
def test_a_source_is_not_written_over(
    vit_directory: Path, tmp_path: Path, source: Path, archive: Path, to: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(vit_directory, model)
    (tmp_path / "link.pt").hardlink_to(source)
    own = tmp_path / "a.pt"
    shutil.copy(archive, own)
    before = {path: path.read_bytes() for path in (source, own, model / "pytorch_model.bin")}
    for path, output in [(source, source), (source, tmp_path / "link.pt"), (own, own)]:
        if (path, to) != (own, "archive"):  # for another reason
            hints = {} if path == own else HINTS
            with pytest.raises(InvalidInputError, match="is part of the model to convert"):
                convert(path, output, to=to, **hints)
    with pytest.raises(InvalidInputError, match="is part of the model to convert"):
        convert(model, model / "pytorch_model.bin", to=to)
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize("name", ["a.cnclip.pt", "a", "a.txt"])
def test_names_by_which_cn_clips_files_are_not_found(
    vit_directory: Path, tmp_path: Path, name: str
) -> None:
    with pytest.raises(InvalidInputError, match=r"expected a name that ends in \.pt"):
        convert(vit_directory, tmp_path / name, to="cn_clip")


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("visual.proj", torch.full((64, 64), torch.nan), "visual.proj has NaN"),
        ("visual.proj", torch.zeros(64, 63), "visual.proj of shape"),
        ("logit_scale", torch.tensor(1000.0), "logit_scale 1000 is out of range"),
    ],
    ids=["NaN", "shape", "temperature"],
)
def test_errors_name_what_is_read(
    tmp_path: Path,
    weights: dict[str, torch.Tensor],
    to: str,
    name: str,
    value: torch.Tensor,
    message: str,
) -> None:
    path = tmp_path / "source.pt"
    torch.save(weights | {name: value}, path)
    with pytest.raises(CheckpointError, match=message) as raised:
        convert(path, tmp_path / "out.pt", to=to, **HINTS)
    assert str(raised.value).startswith(f"{path}: ")


FULL_DISK = """
import os, resource, signal, sys
import cnclip.convert
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
source, directory, *formats = sys.argv[1:]
# torch imports more at the first conversion, and may write files then.
os.unlink(cnclip.convert.convert(source, f"{directory}/first.pt"))
for to in formats:
    for size in (1, 4096, 600_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        try:
            cnclip.convert.convert(source, f"{directory}/{to}.pt", to=to)
        except OSError as error:
            print(to, size, error)
"""


def test_full_disks(
    vit_directory: Path,
    tmp_path: Path,
    fork_server: ForkServer,
) -> None:
    formats = [*FORMATS, *(["onnx"] if importlib.util.find_spec("onnx") else [])]
    done = fork_server.run(FULL_DISK, vit_directory, tmp_path, *formats)
    lines = done.stdout.splitlines()
    assert len(lines) == 3 * len(formats), done.stderr
    for line in lines:
        assert "File too large" in line
        assert f"'{tmp_path / line.split()[0]}.pt" in line, line
        assert "->" not in line and ".tmp" not in line, line
    assert list(tmp_path.iterdir()) == []


def test_info_prints_no_control_characters(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    info = read_archive(archive)
    metadata = info.metadata | {"cnclip": "\x1b[31m\n\x9b2J", "a\rb": 1}
    hostile = dataclasses.replace(info, metadata=metadata)
    for options in ([], ["--json"]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("cnclip.cli.info.read_known_archive", lambda path: hostile)
            assert cli.main(["info", str(archive), *options]) == 0
        out = capsys.readouterr().out
        assert all(line.isprintable() for line in out.split("\n"))
        assert "[31m" in out
