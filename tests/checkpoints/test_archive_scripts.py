"""Archives whose TorchScript returns unexpected values: refused with a message, never a crash."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cnclip
from cnclip import _core, pipeline
from cnclip.archive import FORMAT_VERSION, METADATA, VOCABULARY, read_archive
from cnclip.engine import open_engine
from cnclip.modeling.lower import torchscript
from cnclip.pipelines import MultiModalEmbeddingPipeline


class Tower(torch.nn.Module):
    """A model whose answers are said in the constructor."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    @torch.jit.export
    def prepare(self, precision: str) -> None:
        if self.kind == "prepare raises":
            raise ValueError("not today, 今天不行")

    @torch.jit.export
    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.rows(pixels.size(0))

    @torch.jit.export
    def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        return self.rows(ids.size(0))

    def rows(self, n: int) -> torch.Tensor:
        if self.kind == "raises":
            raise RuntimeError("not today, 今天不行")
        if self.kind == "raises without a message":
            raise RuntimeError("")
        if self.kind == "asserts":
            assert n < 0, "n is not negative"
        if self.kind == "fails in an operation":
            return torch.zeros(2, 3) @ torch.zeros(2, 3)
        if self.kind == "float64":
            return torch.zeros(n, 8, dtype=torch.float64)
        if self.kind == "int64":
            return torch.zeros(n, 8, dtype=torch.int64)
        if self.kind == "one row too many":
            return torch.zeros(n + 1, 8)
        if self.kind == "one row too few":
            return torch.zeros(n - 1, 8)
        if self.kind == "narrow":
            return torch.zeros(n, 7)
        if self.kind == "three dimensions":
            return torch.zeros(n, 8, 1)
        if self.kind == "needs a petabyte":
            return torch.zeros(n, 1 << 48)
        if self.kind == "scalar":
            return torch.zeros([])
        if self.kind == "sparse":
            return torch.zeros(n, 8).to_sparse()
        if self.kind == "not contiguous":
            return torch.arange(8 * n, dtype=torch.float32).view(8, n).t()
        if self.kind == "expanded":
            return torch.ones(1, 1).expand(n, 8)
        return torch.ones(n, 8)


class NoTensor(torch.nn.Module):
    @torch.jit.export
    def prepare(self, precision: str) -> None:
        pass

    @torch.jit.export
    def encode_image(self, pixels: torch.Tensor) -> int:
        return 5

    @torch.jit.export
    def encode_text(self, ids: torch.Tensor) -> list[torch.Tensor]:
        return [ids]


class OtherArguments(torch.nn.Module):
    @torch.jit.export
    def prepare(self, precision: str) -> None:
        pass

    @torch.jit.export
    def encode_image(self, pixels: torch.Tensor, more: int) -> torch.Tensor:
        return pixels

    @torch.jit.export
    def encode_text(self) -> torch.Tensor:
        return torch.zeros(1, 8)


class NoPrepare(torch.nn.Module):
    @torch.jit.export
    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels

    @torch.jit.export
    def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        return ids


class NoText(torch.nn.Module):
    @torch.jit.export
    def prepare(self, precision: str) -> None:
        pass

    @torch.jit.export
    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels


class NoImage(torch.nn.Module):
    @torch.jit.export
    def prepare(self, precision: str) -> None:
        pass

    @torch.jit.export
    def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        return ids


Open = Callable[[torch.nn.Module], MultiModalEmbeddingPipeline]


@pytest.fixture
def open_script(tmp_path: Path) -> Open:
    """Opens a module as an archive of 8 columns."""

    def open_it(module: torch.nn.Module) -> MultiModalEmbeddingPipeline:
        metadata: dict[str, Any] = {"format": FORMAT_VERSION, "embed_dim": 8}
        metadata |= {
            "image_resolution": 4,
            "context_length": 5,
            "temperature": 0.07,
            "mean": [0, 0, 0],
            "std": [1, 1, 1],
        }
        towers = {"embed_dim": 8, "vision": {"resolution": 4}, "text": {"max_positions": 5}}
        metadata["architecture"] = towers
        path = tmp_path / "script.cnclip.pt"
        files = {METADATA: json.dumps(metadata), VOCABULARY: b"[PAD]\n[UNK]\n[CLS]\n[SEP]"}
        with torchscript():
            torch.jit.script(module).save(str(path), _extra_files=files)  # type: ignore[no-untyped-call]
        return pipeline(model=path, device="cpu")

    return open_it


BATCH = r"running the model on a batch of \d (text|image)s?"
INPUTS: list[dict[str, Any]] = [
    {"text": ["a", "b", "c"]},
    {"img": [Image.new("RGB", (9, 9))] * 3},
]


@pytest.mark.parametrize("given", INPUTS, ids=["text", "img"])
@pytest.mark.parametrize(
    "kind",
    ["float64", "int64", "one row too many", "one row too few", "narrow", "three dimensions"]
    + ["scalar"],
)
def test_answers_of_another_shape_or_type(open_script: Open, kind: str, given: Any) -> None:
    found = open_script(Tower(kind))
    with pytest.raises(cnclip.errors.ModelRunError, match=r"than float32 \[3, 8\]") as raised:
        found.forward(given)
    assert isinstance(raised.value, RuntimeError)


@pytest.mark.parametrize("given", INPUTS, ids=["text", "img"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("raises", rf"{BATCH}: .*not today, 今天不行"),
        ("raises without a message", rf"{BATCH}: unknown error$"),
        ("asserts", rf"{BATCH}: .*n is not negative"),
        ("fails in an operation", rf"{BATCH}: .*(2x3|mat1)"),
        ("sparse", "running the model"),
    ],
)
def test_models_that_raise(open_script: Open, kind: str, message: str, given: Any) -> None:
    found = open_script(Tower(kind))
    for _ in range(3):
        with pytest.raises(cnclip.errors.ModelRunError, match=message) as raised:
            found.forward(given)
        assert "Exception raised from" not in str(raised.value)


@pytest.mark.skipif("CNCLIP_SANITIZE" in os.environ, reason="a sanitizer ends the process")
@pytest.mark.parametrize("given", INPUTS, ids=["text", "img"])
def test_models_that_need_too_much_memory(open_script: Open, given: Any) -> None:
    """libtorch's allocator has no exception of a separate class."""
    with pytest.raises(MemoryError, match="no memory on cpu for 3 (text|image)s at once"):
        open_script(Tower("needs a petabyte")).forward(given)


@pytest.mark.parametrize("given", INPUTS, ids=["text", "img"])
@pytest.mark.parametrize("module", [NoTensor(), OtherArguments()], ids=["no tensor", "arguments"])
def test_methods_of_another_kind(open_script: Open, module: torch.nn.Module, given: Any) -> None:
    found = open_script(module)
    with pytest.raises(cnclip.errors.ModelRunError, match="running the model"):
        found.forward(given)


@pytest.mark.parametrize(
    ("module", "method"),
    [(NoPrepare(), "prepare"), (NoText(), "encode_text"), (NoImage(), "encode_image")],
    ids=["prepare", "encode_text", "encode_image"],
)
def test_missing_methods(open_script: Open, module: torch.nn.Module, method: str) -> None:
    with pytest.raises(cnclip.errors.ArchiveError, match=rf"has no method {method}$"):
        open_script(module)


def test_a_prepare_that_raises(open_script: Open) -> None:
    with pytest.raises(
        cnclip.errors.ModelRunError, match="preparing the model: .*not today, 今天不行"
    ):
        open_script(Tower("prepare raises"))


@pytest.mark.parametrize(("kind", "sums"), [("not contiguous", None), ("expanded", 8.0)])
def test_answers_in_another_layout(open_script: Open, kind: str, sums: float | None) -> None:
    # The encoder alone: the pipeline refuses rows that are not of unit length.
    found = open_script(Tower(kind)).model.encoder.encode_texts(["a", "b", "c"], 3)
    if sums is None:
        # Equal lengths keep their order, so row i is i, i + 3, i + 6, ...
        assert np.array_equal(found, np.arange(24, dtype=np.float32).reshape(8, 3).T)
    else:
        assert found.sum(axis=1).tolist() == [sums] * 3


def test_the_core_alone(archive: Path, tmp_path: Path) -> None:
    info = read_archive(archive)
    tokenizer = _core.Tokenizer(info.vocabulary)
    for name in ("nowhere.pt", ".", "a\udcff.pt"):
        with pytest.raises(cnclip.errors.ArchiveError, match="reading the TorchScript archive"):
            _core.Encoder(open_engine(), tmp_path / name, tokenizer, 64, 52)
    with pytest.raises(ValueError, match="null"):
        _core.Encoder(open_engine(), "a\0b", tokenizer, 64, 52)
    surrogates = tmp_path / "a\udcff.pt"
    surrogates.write_bytes(archive.read_bytes())
    encoder = _core.Encoder(open_engine(), surrogates, tokenizer, 64, 52)
    assert encoder.encode_texts(["猫"], 1).shape == (1, 64)
    assert pipeline(model=surrogates, device="cpu").model.info.path == surrogates


class Turned(Tower):
    """A model with a weight that is not contiguous."""

    def __init__(self) -> None:
        super().__init__("")
        self.register_buffer("weight", torch.zeros(3, 4).t())


def test_prepared_models_have_contiguous_tensors(open_script: Open, tmp_path: Path) -> None:
    encoder = open_script(Turned()).model.encoder
    with pytest.raises(cnclip.errors.ModelRunError, match="is not contiguous memory of the CPU$"):
        encoder.save_prepared(tmp_path / "prepared")
    assert not (tmp_path / "prepared").exists()


def test_a_device_that_computes_nothing(archive: Path, tmp_path: Path) -> None:
    info = read_archive(archive)
    tokenizer = _core.Tokenizer(info.vocabulary)
    encoder = _core.Encoder(
        open_engine(), archive, tokenizer, 64, 52, "meta", spares_busy_cores=True
    )
    with pytest.raises(
        cnclip.errors.ModelRunError, match="running the model on a batch of 2 texts"
    ):
        encoder.encode_texts(["猫", "狗"])
    with pytest.raises(cnclip.errors.ModelRunError, match="is not contiguous memory of the CPU$"):
        encoder.save_prepared(tmp_path / "prepared")


def test_an_open_model_outlives_its_file(archive: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.cnclip.pt"
    copy.write_bytes(archive.read_bytes())
    found = pipeline(model=copy, device="cpu")
    before = found.forward({"text": "猫"})["text_embedding"]
    copy.write_bytes(b"something else")
    assert np.array_equal(found.forward({"text": "猫"})["text_embedding"], before)
