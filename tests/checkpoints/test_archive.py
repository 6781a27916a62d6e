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
from cnclip import pipeline
from cnclip.archive import FORMAT_VERSION, METADATA, VOCABULARY, check_archive
from cnclip.convert import convert
from cnclip.modeling.lower import torchscript
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
    with torchscript():
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


@pytest.mark.parametrize(
    "version", [0, 2, float(FORMAT_VERSION), True, str(FORMAT_VERSION), [], {}, 10**30]
)
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


def test_a_part_marked_as_a_directory_is_named(archive: Path, tmp_path: Path) -> None:
    """libtorch does not read such a part, and leaves its memory uninitialised."""
    content = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as file:
        part = next(entry for entry in file.infolist() if entry.filename.endswith("/data/22"))
        directory = content.index(part.filename.encode(), file.start_dir)
    # The attributes are 8 bytes before the name in the zip's directory.
    content[directory - 8] = 0x10
    path = tmp_path / "directory.cnclip.pt"
    path.write_bytes(content)
    refused(path, r"damaged: data/22 is not what was written")


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
