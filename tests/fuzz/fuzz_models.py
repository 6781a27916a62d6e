"""Targets: archives, prepared models, checkpoints, indexes and folders of embeddings."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cnclip import _core
from cnclip.archive import METADATA, check_archive, content_digest, is_archive, read_archive
from cnclip.bulk.folder import Embeddings, Manifest, load_lines, load_vectors, schema
from cnclip.checkpoints.archive import check_weights
from cnclip.checkpoints.checkpoint import Hints
from cnclip.checkpoints.files import find_checkpoint
from cnclip.convert import convert
from cnclip.engine import open_engine
from cnclip.errors import (
    ArchiveError,
    CheckpointError,
    CnclipError,
    EmbeddingsError,
    IndexFileError,
)
from cnclip.models import read_files
from cnclip.pipelines import pipeline
from cnclip.search import Index
from cnclip.search.index_file import MAGIC
from cnclip.sources import pyarrow_modules
from tests.fuzz.fuzz_target import Finding, Target, scratch, split_choice, written
from tests.support.small_vit import write_directory

# --- Archives ------------------------------------------------------------------------------------


@cache
def _model() -> Path:
    """A small model of ModelScope's format."""
    vision = {"vision_layers": 1, "vision_width": 16, "embed_dim": 8, "image_resolution": 8}
    text = {"text_num_hidden_layers": 1, "text_hidden_size": 8, "text_intermediate_size": 8}
    folder = scratch() / "models"
    folder.mkdir()
    return write_directory(
        folder, vision=vision, text=text | {"text_num_attention_heads": 1, "vocab_size": 22}
    )


@cache
def _converted(format: str, name: str) -> Path:
    return convert(_model(), scratch() / name, to=format)


def _read_archive(content: bytes) -> None:
    part, rest = split_choice(content, ("file", METADATA))
    if part == METADATA:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as file:
            file.writestr("a/extra/cnclip.json", rest)
            file.writestr("a/extra/vocab.txt", b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n")
        rest = stream.getvalue()
    path = written("model.cnclip.pt", rest)
    is_archive(path)
    info = read_archive(path)
    repr(info)
    check_archive(path)
    content_digest(path)


def _archives() -> Iterator[bytes]:
    path = _converted("archive", "seed.cnclip.pt")
    with zipfile.ZipFile(path) as file:
        for name in file.namelist():
            if name.endswith(METADATA):
                yield b"\1" + file.read(name)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", method) as small, zipfile.ZipFile(path) as file:
            for name in file.namelist():
                if "/extra/" in name:
                    small.writestr(name, file.read(name))
        yield b"\0" + stream.getvalue()


# --- Prepared models -----------------------------------------------------------------------------


@cache
def _prepared() -> tuple[bytes, Any]:
    """A prepared model, and what opens a file of it."""
    opened = pipeline(model=_converted("archive", "seed.cnclip.pt"), device="cpu", num_threads=1)
    path = scratch() / "seed.prepared"
    opened.model.encoder.save_prepared(path)
    info = opened.model.info

    def encode(file: Path) -> Any:
        encoder = _core.Encoder(
            open_engine(),
            file,
            opened.preprocessor.tokenizer,
            info.embed_dim,
            info.context_length,
            num_threads=1,
            is_prepared=True,
        )
        return encoder.encode_texts(["猫"])

    return path.read_bytes(), encode


def _read_prepared(content: bytes) -> None:
    """A header of the input in front of the weights and the graph, which are intact."""
    whole, encode = _prepared()
    encode(written("model.prepared", content[:64] + whole[len(content[:64]) :]))


# --- Checkpoints ---------------------------------------------------------------------------------


def _read_checkpoint(path: Path, hints: Hints | None = None) -> None:
    found = find_checkpoint(path)
    check_weights(read_files(found, hints), path)


_SETTINGS = {
    "modelscope": (
        "vision_model_config.json",
        "text_model_config.json",
        "vocab.txt",
        "configuration.json",
    ),
    "huggingface": (
        "config.json",
        "preprocessor_config.json",
        "vocab.txt",
        "tokenizer.json",
        "processor_config.json",
        "model.safetensors.index.json",
    ),
}


def _read_settings(format: str, content: bytes) -> None:
    """A file of a checkpoint is the input; the others are intact."""
    name, rest = split_choice(content, _SETTINGS[format])
    folder = scratch() / f"{format}-settings"
    seed = _model() if format == "modelscope" else _converted("huggingface", "huggingface")
    if not folder.exists():
        folder.mkdir()
    for path in folder.iterdir():
        path.unlink()
    for path in seed.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / name).unlink(missing_ok=True)
    if name == "tokenizer.json":
        (folder / "vocab.txt").unlink()
    if name.endswith(".index.json"):
        (folder / "model.safetensors").rename(folder / "shard.safetensors")
    (folder / name).write_bytes(rest)
    _read_checkpoint(folder)


def _settings(format: str) -> Iterator[bytes]:
    seed = _model() if format == "modelscope" else _converted("huggingface", "huggingface")
    for number, name in enumerate(_SETTINGS[format]):
        if (seed / name).exists():
            yield bytes([number]) + (seed / name).read_bytes()


def _hints() -> Hints:
    return Hints(16, 8, (_model() / "vocab.txt").read_bytes())


def _read_pickle(content: bytes) -> None:
    """A file of torch.save: as it is, or the input is the pickle in an intact zip."""
    part, rest = split_choice(content, ("file", "pickle"))
    path = written("model.pt", rest)
    if part == "pickle":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a/data.pkl", rest)
            file.writestr("a/byteorder", b"little")
            file.writestr("a/version", b"3\n")
            for number in range(4):
                file.writestr(f"a/data/{number}", bytes(64))
    _read_checkpoint(path, _hints())


def _pickles() -> Iterator[bytes]:
    tensors = {
        "text_projection": torch.zeros(2, 2),
        "logit_scale": torch.zeros((), dtype=torch.float16),
        "visual.proj": torch.nn.Parameter(torch.zeros(3)),
    }
    for content in (tensors, {"state_dict": tensors, "epoch": 1}):
        for number, is_zip in ((0, False), (1, True)):
            stream = io.BytesIO()
            torch.save(content, stream, _use_new_zipfile_serialization=is_zip)
            if not is_zip:
                yield bytes([number]) + stream.getvalue()
                continue
            yield b"\0" + stream.getvalue()
            with zipfile.ZipFile(stream) as file:
                name = next(name for name in file.namelist() if name.endswith("/data.pkl"))
                yield bytes([number]) + file.read(name)


def _read_safetensors(content: bytes) -> None:
    """A file as it is, or the input is the header of one with 64 bytes of numbers."""
    part, rest = split_choice(content, ("file", "header"))
    if part == "header":
        rest = len(rest).to_bytes(8, "little") + rest + bytes(64)
    _read_checkpoint(written("model.pt", rest), _hints())


def _safetensors() -> Iterator[bytes]:
    header = {
        "__metadata__": {"format": "pt"},
        "logit_scale": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
        "text_projection": {"dtype": "BF16", "shape": [5, 6], "data_offsets": [4, 64]},
    }
    text = json.dumps(header).encode()
    yield b"\1" + text
    yield b"\0" + len(text).to_bytes(8, "little") + text + bytes(64)


# --- Indexes and embeddings ----------------------------------------------------------------------


@cache
def _index() -> bytes:
    index = Index.create(4, model=None)
    index.add(np.eye(3, 4, dtype=np.float32), ["a", "图", "c"])
    path = scratch() / "seed.index"
    index.save(path)
    return path.read_bytes()


def _description_of(content: bytes) -> tuple[bytes, bytes]:
    """The parts and the description of an index."""
    size = int.from_bytes(content[-40:-32], "little")
    return content[: -48 - size], content[-48 - size : -48]


def _read_index(content: bytes) -> None:
    """A file as it is, or the input is the description of one whose vectors are intact.

    FAISS trusts its part of the file, so that it is either intact or found to be damaged.
    """
    part, rest = split_choice(content, ("file", "description"))
    if part == "description":
        digest = hashlib.sha256(rest).digest()
        trailer = MAGIC + len(rest).to_bytes(8, "little") + digest
        rest = _description_of(_index())[0] + rest + trailer
    index = Index.load(written("some.index", rest), mapped=False)
    index.ids()
    repr(index)
    with contextlib.suppress(CnclipError):  # the model may have other columns
        index.search(np.eye(1, 4, dtype=np.float32), 2)


def _indexes() -> Iterator[bytes]:
    yield b"\0" + _index()
    yield b"\1" + _description_of(_index())[1]


def _read_manifest(content: bytes) -> None:
    manifest = Manifest.read(written("embeddings/manifest.json", content))
    assert manifest is not None
    embeddings = Embeddings(scratch() / "embeddings", manifest)
    repr(embeddings)
    with contextlib.suppress(EmbeddingsError):  # none of its files exists
        embeddings.check()
    manifest.differences(manifest)


def _read_shard(content: bytes) -> None:
    part, rest = split_choice(content, ("npy", "parquet"))
    shard, manifest = _manifest().shards[0], _manifest()
    written(f"embeddings/{shard.name}.{part}", rest)
    if part == "npy":
        rows = load_vectors(scratch() / "embeddings", shard, manifest)
        if rows.shape != (2, 4):
            raise Finding(f"rows of shape {rows.shape}")
    else:
        load_lines(scratch() / "embeddings", shard).to_pylist()


@cache
def _manifest() -> Manifest:
    value = {
        "format": 1,
        "kind": "images",
        "model": {"name": "a", "digest": "b", "embed_dim": 4, "resolution": 32},
        "precision": "fp32",
        "dtype": "float32",
        "sources": ["/a"],
        "shard_items": 2,
        "exclude": ["x/"],
        "image_options": {"depth": "scale"},
        "shards": [
            {"name": "00000-ab", "rows": 2, "items": 2, "sha256": {"npy": "1", "parquet": "2"}}
        ],
    }
    found = Manifest.read(written("seed.json", json.dumps(value).encode()))
    assert found is not None
    return found


def _manifests() -> Iterator[bytes]:
    path = scratch() / "seed.json"
    _manifest().write(path)
    yield path.read_bytes()


def _shards() -> Iterator[bytes]:
    for dtype in ("<f4", "<f2", ">f4", "O"):
        for version in ((1, 0), (2, 0)):
            stream = io.BytesIO()
            rows = np.zeros((2, 4), dtype)
            np.lib.format.write_array(stream, rows, version, allow_pickle=True)
            yield b"\0" + stream.getvalue()
    arrow, parquet = pyarrow_modules()
    stream = io.BytesIO()
    lines = [{"row": row, "id": f"{row}", "path": "/图"} for row in range(2)]
    parquet.write_table(arrow.Table.from_pylist(lines, schema=schema()), stream)
    yield b"\1" + stream.getvalue()


TARGETS = {
    "archive": Target(_read_archive, _archives, (ArchiveError,)),
    "huggingface": Target(
        lambda content: _read_settings("huggingface", content),
        lambda: _settings("huggingface"),
        (CheckpointError,),
    ),
    "index": Target(_read_index, _indexes, (IndexFileError,)),
    "manifest": Target(_read_manifest, _manifests, (EmbeddingsError,)),
    "modelscope": Target(
        lambda content: _read_settings("modelscope", content),
        lambda: _settings("modelscope"),
        (CheckpointError,),
    ),
    "pickle": Target(_read_pickle, _pickles, (CheckpointError,)),
    "prepared": Target(_read_prepared, lambda: [_prepared()[0][:64]], (ArchiveError,), max_len=64),
    "safetensors": Target(_read_safetensors, _safetensors, (CheckpointError,)),
    "shard": Target(_read_shard, _shards, (EmbeddingsError,), max_len=16384),
}
