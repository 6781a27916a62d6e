"""Archives damaged, incomplete or of another make: refused with a sentence, never a crash."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cnclip
from cnclip import _core, pipeline
from cnclip.archive import FORMAT_VERSION, METADATA, VOCABULARY, check_archive, read_archive
from cnclip.convert import convert
from cnclip.pipelines import MultiModalEmbeddingPipeline

Entries = dict[str, bytes]


@pytest.fixture
def rewrite(archive: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes tiny-vit's archive once more, with its parts changed."""

    def write(change: Callable[[Entries], None], compression: int = zipfile.ZIP_STORED) -> Path:
        with zipfile.ZipFile(archive) as file:
            top = file.namelist()[0].partition("/")[0]
            entries = {name.removeprefix(top + "/"): file.read(name) for name in file.namelist()}
        change(entries)
        path = tmp_path / "changed.cnclip.pt"
        with zipfile.ZipFile(path, "w", compression) as file:
            for name, content in entries.items():
                file.writestr(f"changed/{name}", content)
        return path

    return write


def change_metadata(**values: Any) -> Callable[[Entries], None]:
    def change(entries: Entries) -> None:
        metadata = json.loads(entries[f"extra/{METADATA}"])
        for name, value in values.items():
            if value is None:
                del metadata[name]
            else:
                metadata[name] = value
        entries[f"extra/{METADATA}"] = json.dumps(metadata).encode()

    return change


def refused(path: Path, message: str) -> None:
    with pytest.raises(cnclip.errors.ArchiveError, match=message) as raised:
        pipeline(model=path, device="cpu")
    assert isinstance(raised.value, ValueError)
    assert str(path) in str(raised.value)
    assert len(str(raised.value)) < 700


# Files that are no archive


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"text", bytes(100_000), b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"PK" * 5000],
    ids=lambda content: str(content)[:20],
)
def test_files_that_are_no_archive(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.cnclip.pt"
    path.write_bytes(content)
    refused(path, "truncated, damaged, or not a TorchScript archive|not an archive of cnclip")


def test_a_plain_zip(tmp_path: Path) -> None:
    path = tmp_path / "plain.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "nothing to see")
    refused(path, "not an archive of cnclip: it holds no extra file cnclip.json")


def test_something_that_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    refused(path, "expected a file or a model directory")


def test_torchscript_of_others(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)  # type: ignore[no-untyped-call]
    refused(path, "it holds no extra file cnclip.json")


# Archives that lack something, or say something else


def test_unchanged_but_for_its_zip(
    rewrite: Callable[..., Path], vit: MultiModalEmbeddingPipeline
) -> None:
    expected = vit.forward({"text": "猫"})["text_embedding"]
    path = rewrite(lambda entries: None)
    check_archive(path)
    found = pipeline(model=path, device="cpu").forward({"text": "猫"})["text_embedding"]
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("name", [METADATA, VOCABULARY])
def test_without_an_extra_file(rewrite: Callable[..., Path], name: str) -> None:
    refused(rewrite(lambda entries: entries.pop(f"extra/{name}")), f"holds no extra file {name}")


def test_without_parts_that_libtorch_needs(rewrite: Callable[..., Path]) -> None:
    # torch names the version's file after the version.
    for names in (["data.pkl"], ["constants.pkl"], [".data/version", "version"], ["data/0"]):
        path = rewrite(
            lambda entries, names=names: [entries.pop(name) for name in names if name in entries]
        )
        refused(path, "TorchScript archive")
    path = rewrite(
        lambda entries: [entries.pop(name) for name in list(entries) if name.startswith("code/")]
    )
    refused(path, "TorchScript archive")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "its cnclip.json is damaged"),
        (b"{", "its cnclip.json is damaged"),
        (b"\xff", "its cnclip.json is damaged"),
        (b"[" * 100_000, "its cnclip.json is damaged"),
        (b"[1]", "archive format None"),
        (b"{}", f"archive format None, this cnclip reads format {FORMAT_VERSION}; convert"),
        (b" " * (2 << 20), "cnclip.json claims 2097152 bytes"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_metadata_that_cannot_be_read(
    rewrite: Callable[..., Path], content: bytes, message: str
) -> None:
    refused(rewrite(lambda e: e.__setitem__(f"extra/{METADATA}", content)), message)


@pytest.mark.parametrize("version", [0, 1, float(FORMAT_VERSION), True, "2", [], {}, 10**30])
def test_other_format_versions(rewrite: Callable[..., Path], version: Any) -> None:
    path = rewrite(change_metadata(format=version))
    message = f"this cnclip reads format {FORMAT_VERSION}; convert the checkpoint again"
    refused(path, f"archive format .*, {message}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("embed_dim", None),
        ("embed_dim", 0),
        ("embed_dim", "64"),
        ("embed_dim", True),
        ("embed_dim", 2**40),
        ("embed_dim", 65),
        ("image_resolution", 48),
        ("image_resolution", 2**20),
        ("context_length", 513),
        ("architecture", None),
        ("architecture", 5),
        ("architecture", {"embed_dim": 64}),
        ("image_resolution", -32),
        ("image_resolution", 32.0),
        ("context_length", 1),
        ("context_length", None),
        ("temperature", "warm"),
        ("temperature", float("nan")),
        ("temperature", 10**400),
        ("temperature", None),
        ("mean", [0.5, 0.5]),
        ("mean", 0.5),
        ("std", [1, 1, float("inf")]),
        ("std", [1, 0, 1]),
        ("std", ["a", "b", "c"]),
        ("std", [1e-300, 1, 1]),
        ("mean", [1e308, 0, 0]),
        ("mean", "123"),
        ("mean", [True, 0, 0]),
        ("temperature", 0),
        ("temperature", -1),
        ("temperature", 1e-320),
        ("temperature", "0.07"),
    ],
)
def test_damaged_metadata(rewrite: Callable[..., Path], name: str, value: Any) -> None:
    refused(rewrite(change_metadata(**{name: value})), "its cnclip.json is damaged")


@pytest.mark.parametrize(
    ("tower", "key", "value", "message"),
    [
        ("vision", "layers", 10**9, "an integer from 1 to 1000"),
        ("vision", "layers", "x", "an integer from 1 to 1000"),
        ("vision", "layers", [1, 2], "an integer or four of them"),
        ("vision", "layers", [1, 2, 3, 10**9], "an integer or four of them"),
        ("vision", "width", "x", "an integer from 1"),
        ("vision", "patch_size", 33, "an integer from 1 to 32"),
        ("vision", "head_width", 100, "a divisor of 64"),
        ("text", "width", 1 << 60, "an integer from 1"),
        ("text", "layers", 10**7, "an integer from 1 to 1000"),
        ("text", "heads", 5, "a divisor of 32"),
        ("text", "activation", ["gelu"], "one of gelu"),
    ],
)
def test_sizes_of_towers_that_cannot_be(
    rewrite: Callable[..., Path], tmp_path: Path, tower: str, key: str, value: Any, message: str
) -> None:
    def change(entries: Entries) -> None:
        metadata = json.loads(entries[f"extra/{METADATA}"])
        metadata["architecture"][tower][key] = value
        entries[f"extra/{METADATA}"] = json.dumps(metadata).encode()

    path = rewrite(change)
    expected = rf"{path}:{METADATA}: architecture.{tower}.{key}: damaged: expected {message}"
    for to in ("cn_clip", "modelscope"):
        with pytest.raises(cnclip.errors.ArchiveError, match=expected):
            convert(path, tmp_path / "out.pt", to=to)


def test_a_damaged_vocabulary(rewrite: Callable[..., Path]) -> None:
    path = rewrite(lambda entries: entries.__setitem__(f"extra/{VOCABULARY}", b"[PAD]\n"))
    with pytest.raises(cnclip.errors.VocabularyError):
        pipeline(model=path, device="cpu")


def test_metadata_of_another_model(rewrite: Callable[..., Path]) -> None:
    def change(entries: Entries) -> None:
        metadata = json.loads(entries[f"extra/{METADATA}"])
        metadata["image_resolution"] = metadata["architecture"]["vision"]["resolution"] = 48
        metadata["embed_dim"] = metadata["architecture"]["embed_dim"] = 65
        entries[f"extra/{METADATA}"] = json.dumps(metadata).encode()

    found = pipeline(model=rewrite(change), device="cpu")
    with pytest.raises(
        cnclip.errors.ModelRunError, match=r"another shape or type than float32 \[1, 65\]"
    ):
        found.forward({"text": "猫"})
    with pytest.raises(cnclip.errors.ModelRunError, match="running the model"):
        found.forward({"img": Image.new("RGB", (9, 9))})


# Archives that were damaged


def test_truncated_at_many_lengths(archive: Path, tmp_path: Path) -> None:
    content = archive.read_bytes()
    path = tmp_path / "short.cnclip.pt"
    ends = set(range(0, len(content), len(content) // 40))
    ends |= {len(content) - n for n in (1, 2, 21, 22, 23, 100, 1000, 5000, 8000)}
    for end in sorted(ends):
        path.write_bytes(content[:end])
        refused(path, "truncated, damaged, or not a TorchScript archive")


def test_damage_anywhere_is_seen(
    archive: Path, tmp_path: Path, vit: MultiModalEmbeddingPipeline
) -> None:
    """Whatever byte is changed: refused, or of no consequence for the numbers."""
    content = archive.read_bytes()
    expected = vit.forward({"text": "猫", "img": Image.new("RGB", (9, 9))})
    path = tmp_path / "damaged.cnclip.pt"
    random = np.random.default_rng(0)
    accepted = 0
    for step in range(150):
        damaged = bytearray(content)
        # Half of the time in the end, where the zip's directory stands.
        behind = len(content) if step % 2 else 9000
        at = len(content) - 1 - int(random.integers(behind))
        if step % 3:
            damaged[at : at + 8] = random.bytes(8)[: len(content) - at]
        else:
            damaged[at] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            found = pipeline(model=path, device="cpu")
        except cnclip.errors.ArchiveError as error:
            assert str(path) in str(error)
            continue
        accepted += 1
        answer = found.forward({"text": "猫", "img": Image.new("RGB", (9, 9))})
        for key, rows in expected.items():
            assert np.array_equal(rows, answer[key])
    assert accepted < 50


def test_garbage_in_the_weights_is_named(archive: Path, tmp_path: Path) -> None:
    content = bytearray(archive.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4] = b"\x12\x34\x56\x78"
    path = tmp_path / "garbage.cnclip.pt"
    path.write_bytes(content)
    refused(path, r"damaged: data/\d+ is not what was written")


@pytest.mark.parametrize(
    "compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA], ids=["deflate", "lzma"]
)
def test_compressed_archives(rewrite: Callable[..., Path], compression: int) -> None:
    path = rewrite(lambda entries: None, compression)
    try:
        rows = pipeline(model=path, device="cpu").forward({"text": "猫"})["text_embedding"]
    except cnclip.errors.ArchiveError:
        return
    assert rows.shape == (1, 64)


def test_a_part_that_unpacks_to_gigabytes(rewrite: Callable[..., Path], tmp_path: Path) -> None:
    path = rewrite(lambda entries: None)
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file,
        file.open("changed/extra/bomb", "w", force_zip64=True) as part,
    ):
        for _ in range(256):
            part.write(bytes(1 << 20))
    refused(path, "damaged: its parts claim [0-9]{9} bytes")
    with pytest.raises(cnclip.errors.ArchiveError, match="its parts claim"):
        convert(path, tmp_path / "out.pt", to="cn_clip")


# TorchScript that answers other things than it should


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
        torch.jit.script(module).save(  # type: ignore[no-untyped-call]
            str(path),
            _extra_files={
                METADATA: json.dumps(metadata),
                VOCABULARY: b"[PAD]\n[UNK]\n[CLS]\n[SEP]",
            },
        )
        return pipeline(model=path, device="cpu")

    return open_it


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
        ("raises", "running the model: .*not today, 今天不行"),
        ("asserts", "running the model: .*n is not negative"),
        ("fails in an operation", "running the model: .*(2x3|mat1)"),
        ("sparse", "running the model"),
    ],
)
def test_models_that_raise(open_script: Open, kind: str, message: str, given: Any) -> None:
    found = open_script(Tower(kind))
    for _ in range(3):
        with pytest.raises(cnclip.errors.ModelRunError, match=message) as raised:
            found.forward(given)
        assert "Exception raised from" not in str(raised.value)


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
    rows = open_script(Tower(kind)).forward({"text": ["a", "b", "c"]}, batch_size=3)
    found = rows["text_embedding"]
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
            _core.Encoder(tmp_path / name, tokenizer, 64, 52)
    with pytest.raises(ValueError, match="null"):
        _core.Encoder("a\0b", tokenizer, 64, 52)
    surrogates = tmp_path / "a\udcff.pt"
    surrogates.write_bytes(archive.read_bytes())
    encoder = _core.Encoder(surrogates, tokenizer, 64, 52)
    assert encoder.encode_texts(["猫"], 1).shape == (1, 64)
    assert pipeline(model=surrogates, device="cpu").model.info.path == surrogates


def test_an_open_model_outlives_its_file(archive: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.cnclip.pt"
    copy.write_bytes(archive.read_bytes())
    found = pipeline(model=copy, device="cpu")
    before = found.forward({"text": "猫"})["text_embedding"]
    copy.write_bytes(b"something else")
    assert np.array_equal(found.forward({"text": "猫"})["text_embedding"], before)
