"""Files of tensors: torch's pickles, read as tensors only, and safetensors."""

from __future__ import annotations

import ctypes
import mmap
import os
import pickle
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, MissingExtraError
from .checkpoint import Weights

# Written by training wrappers around the model, in the order in which they are stripped.
PREFIXES = ("module.", "_orig_mod.", "clip_model.")


def read_tensors(paths: Iterable[Path]) -> Weights:
    """The tensors of some files, by their names; those of a safetensors file are mapped.

    Raises:
        CheckpointError: a file is damaged, or two hold a tensor of the same name.
        MissingExtraError: safetensors is not installed.
    """
    weights: Weights = {}
    for path in paths:
        if path.suffix == ".json":  # an index of the others
            continue
        read = read_safetensors if path.suffix == ".safetensors" else read_pickle
        for name, tensor in read(path).items():
            if name in weights:
                raise CheckpointError(f"{path}: {name} stands in another file too")
            weights[name] = tensor
    return weights


def read_safetensors(path: Path) -> Weights:
    """The tensors of a safetensors file, which checks its sizes before it believes them."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise MissingExtraError("huggingface", "safetensors") from error
    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except MemoryError:
        raise
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"{path}: damaged: {first_line(error)}") from error
    if not weights:
        raise CheckpointError(f"{path}: it holds no tensors")
    return weights


def write_safetensors(weights: Weights, path: Path) -> None:
    """Write tensors to a safetensors file.

    Raises:
        OSError: the file cannot be written.
        MissingExtraError: safetensors is not installed.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import save_file
    except ImportError as error:
        raise MissingExtraError("huggingface", "safetensors") from error
    try:
        save_file(weights, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error


def read_pickle(path: Path) -> Weights:
    """The tensors of a file that torch.save wrote, under the names that they have in the model.

    Raises:
        CheckpointError: it is damaged, or holds anything but tensors by their names.
    """
    content = _load(path)
    weights = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f"{path}: expected a dict of tensors")
    if not all(isinstance(name, str) for name in weights):
        raise CheckpointError(f"{path}: expected tensors by their names")
    for prefix in PREFIXES:
        if str(next(iter(weights))).startswith(prefix):
            weights = {str(name).removeprefix(prefix): value for name, value in weights.items()}
    for name, value in weights.items():
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{path}: {name}: expected a tensor, found {type(value)}")
    return weights


def _load(path: Path) -> Any:
    try:
        is_zip = zipfile.is_zipfile(path)
        if is_zip:
            _check_zip(path)
        # Mapped where that is possible: of zips, and by a name that libtorch can take.
        mapped = is_zip and _is_utf8(path)
        with path.open("rb") as file:
            return torch.load(
                path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped
            )
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: not read: it is damaged, or holds Python objects other than tensors, which "
            f"could run code ({first_line(error)})"
        ) from error
    except (MemoryError, CheckpointError):
        raise
    except Exception as error:  # torch raises whatever a damaged file leads it to
        raise CheckpointError(f"{path}: damaged: {first_line(error)}") from error


def rounded_to_half(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as float16; the memory of a mapped one goes back to the system.

    The whole mapping and all that was made of it would otherwise stand beside each other.
    """
    half = tensor.half()
    advice = 21  # MADV_PAGEOUT, a hint: what stands nowhere but in memory stays there
    if half is not tensor and sys.platform == "linux":
        first = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        size = (tensor.data_ptr() + tensor.nbytes - first) // mmap.PAGESIZE * mmap.PAGESIZE
        if size > 0:
            madvise = ctypes.CDLL(None).madvise
            madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), ctypes.c_int(advice))
    return half


def _check_zip(path: Path) -> None:
    """Refuse parts that claim more bytes than the file has: torch writes them uncompressed."""
    with zipfile.ZipFile(path) as file:
        for entry in file.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
                raise CheckpointError(
                    f"{path}: damaged: {entry.filename} is compressed, which torch never does"
                )
        claimed = sum(entry.file_size for entry in file.infolist())
    if claimed > path.stat().st_size:
        raise CheckpointError(f"{path}: damaged: its parts claim {claimed} bytes")


def _is_utf8(path: Path) -> bool:
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def first_line(error: BaseException) -> str:
    """The beginning of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
