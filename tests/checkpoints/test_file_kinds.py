"""Files that are named as checkpoints and are something else, or hold a model in another dict."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import cnclip
import cnclip.convert
from cnclip.checkpoints.files import find_checkpoint
from cnclip.checkpoints.tensors import read_tensors
from cnclip.errors import ArchiveError, CheckpointError
from cnclip.models import open_archive

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 753000000\n"


def tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as file:
        file.addfile(tarfile.TarInfo("a"), io.BytesIO())
    return stream.getvalue()


def plain_zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("model/config.json", "{}")
    return stream.getvalue()


KINDS = [
    (b"<!DOCTYPE html><title>403</title>", "a web page"),
    (b"\xef\xbb\xbf\n <HTML lang=zh><body>", "a web page"),
    (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML, such as a server's"),
    (LFS, "a pointer of Git LFS.*git lfs pull"),
]
WEIGHTS_KINDS = [
    (b"", "damaged: an empty file"),
    (b'{"error": "unauthorized"}', "JSON, such as a server's error"),
    (gzip.compress(b"x"), "compressed with gzip"),
    (tar(), "a tar file"),
    (plain_zip(), "a zip that torch.save did not write"),
    (b"\x93NUMPY\x01", "a NumPy array"),
    (b"GGUF", "a GGUF file"),
    (b"hello", "damaged, or something else"),
    (b"\xe7" * 1000, "damaged, or something else"),
    (bytes(1000), "nothing but zeros"),
]


@pytest.mark.parametrize(("content", "message"), KINDS + WEIGHTS_KINDS)
def test_files_are_named_for_what_they_are(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "clip_cn_vit-b-16.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{path.name}: {message}"):
        cnclip.pipeline(model=path, device="cpu")


@pytest.mark.parametrize(("content", "message"), KINDS)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "vocab.txt", "vision_model_config.json"])
def test_files_of_a_directory(
    name: str, content: bytes, message: str, vit_directory: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(vit_directory, model)
    (model / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name}: {message}"):
        open_archive(model)


@pytest.mark.parametrize(("content", "message"), KINDS)
def test_archives(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.cnclip.pt"
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=message):
        open_archive(path)


def test_a_directory_of_adapters_or_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "epoch_latest.pt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="to open epoch_latest.pt, pass that file"):
        find_checkpoint(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="adapters of peft"):
        find_checkpoint(tmp_path)


@pytest.fixture
def weights(vit_directory: Path) -> dict[str, torch.Tensor]:
    return read_tensors([vit_directory / "pytorch_model.bin"])


def prefixed(weights: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {prefix + name: value for name, value in weights.items()}


WRAPPED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "plain": lambda w: w,
    "model": lambda w: {"model": w, "epoch": 3},
    "cn_clip": lambda w: {"epoch": 1, "state_dict": prefixed(w, "module."), "optimizer": {}},
    "nested": lambda w: {"module": {"state_dict": w}},
    "model_state_dict": lambda w: {"model_state_dict": prefixed(w, "clip_model.")},
    "Lightning": lambda w: {
        "pytorch-lightning_version": "2.5",
        "epoch": 1,
        "callbacks": {},
        "state_dict": prefixed(w, "model.clip.") | {"loss.scale": torch.ones(1)},
    },
    "compiled": lambda w: {"state_dict": prefixed(w, "module._orig_mod.")},
    "compiled within": lambda w: {
        name.replace("visual.", "visual._orig_mod."): value for name, value in w.items()
    },
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_wrapped_models_open(kind: str, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(WRAPPED[kind](weights), tmp_path / "a.pt")
    found = read_tensors([tmp_path / "a.pt"])
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_safetensors_by_another_name(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save = pytest.importorskip("safetensors.torch").save_file
    save({name: value.contiguous().clone() for name, value in weights.items()}, tmp_path / "a.pt")
    assert read_tensors([tmp_path / "a.pt"]).keys() == weights.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: prefixed(w, "a.") | prefixed(w, "ema."), "it holds 2 models, a., ema."),
        (
            lambda w: {"base_model.model.text.lora_A.weight": torch.ones(2, 2)},
            "adapters of peft .LoRA. without the model",
        ),
        (lambda w: w | {"bert.a.lora_B.default.weight": torch.ones(2, 2)}, "adapters of peft"),
    ],
)
def test_models_that_are_refused(
    change: Any, message: str, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(change(weights), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=message):
        read_tensors([tmp_path / "a.pt"])


def test_lightning_with_objects(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    content = {"pytorch-lightning_version": "2.5", "hyper_parameters": Path("x")}
    torch.save(content | {"state_dict": weights}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="of PyTorch Lightning.*other than tensors.*If you"):
        read_tensors([tmp_path / "a.ckpt"])


def test_position_ids_are_not_used(
    weights: dict[str, torch.Tensor], vit_directory: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(vit_directory, model)
    ids = {"bert.embeddings.position_ids": torch.arange(52)[None]}
    torch.save(weights | ids, model / "pytorch_model.bin")
    expected = open_archive(vit_directory).metadata["parameters"]
    assert open_archive(model).metadata["parameters"] == expected
    from cnclip.checkpoints.modelscope import used_tensors

    assert not any("position_ids" in name for name in used_tensors(weights | ids))


def test_hugging_faces_names_without_settings(tmp_path: Path) -> None:
    from cnclip.models import read_files

    torch.save(
        {"text_model.embeddings.word_embeddings.weight": torch.ones(3, 2)}, tmp_path / "a.pt"
    )
    with pytest.raises(CheckpointError, match="ChineseCLIPModel without their config.json"):
        read_files(find_checkpoint(tmp_path / "a.pt"))


def test_processor_config(vit_directory: Path, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    from cnclip.checkpoints.huggingface import read_settings

    theirs = tmp_path / "theirs"
    cnclip.convert.convert(vit_directory, theirs, to="huggingface")
    old = theirs / "preprocessor_config.json"
    settings = json.loads(old.read_text()) | {"image_mean": [0.1, 0.2, 0.3]}
    (theirs / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    assert read_settings(theirs).mean == (0.1, 0.2, 0.3)  # as transformers chooses
    assert theirs / "processor_config.json" in find_checkpoint(theirs).files
    old.unlink()
    assert read_settings(theirs).mean == (0.1, 0.2, 0.3)
    settings["do_resize"] = False
    (theirs / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    with pytest.raises(CheckpointError, match=r"processor_config.json:image_processor.do_resize"):
        read_settings(theirs)
    (theirs / "processor_config.json").write_text("{}")
    assert read_settings(theirs).mean != (0.1, 0.2, 0.3)


def test_a_model_of_another_kind_is_named_before_its_vocabulary(
    vit_directory: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    cnclip.convert.convert(vit_directory, model, to="huggingface")
    (model / "vocab.txt").write_text("a\n")
    (model / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(CheckpointError, match=r"config.json:model_type: expected 'chinese_clip'"):
        cnclip.pipeline(model=model, device="cpu")
