"""Files of tensors: torch's pickles, read as tensors only, and safetensors."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from .._checks import requires_extra
from .._text import first_line
from ..errors import CheckpointError
from .checkpoint import Weights
from .files import SAFETENSORS_SUFFIX, ZIP_MAGIC
from .hostile_pickles import check_pickles

# Prefixes that training wrappers put before the model's names, in the order of removal.
PREFIXES = ("module.", "_orig_mod.", "clip_model.")
_MAX_NAME = 200


def read_tensors(paths: Iterable[Path]) -> Weights:
    """The tensors of several files by their names; those of safetensors files are mapped.

    Raises:
        CheckpointError: a file is damaged, or two hold a tensor of the same name.
        MissingExtraError: safetensors is not installed.
    """
    weights: Weights = {}
    for path in paths:
        if path.suffix == ".json":  # an index of the others
            continue
        read = read_safetensors if path.suffix == SAFETENSORS_SUFFIX else read_pickle
        for name, tensor in read(path).items():
            if name in weights:
                raise CheckpointError(f"{name} is in another file too", file=path)
            weights[name] = tensor
    return weights


def read_pickle(path: Path) -> Weights:
    """The tensors of a file that torch.save wrote, by their names in the model.

    Raises:
        CheckpointError: it is damaged, or holds anything but tensors by their names.
    """
    content = _load(path)
    weights = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError("expected a dict of tensors", file=path)
    weights = by_name(path, weights.items())
    _check_sizes(path, weights)
    for prefix in PREFIXES:
        if next(iter(weights)).startswith(prefix):
            stripped = ((name.removeprefix(prefix), value) for name, value in weights.items())
            weights = by_name(path, stripped)
    return {name: _separate(value.detach()) for name, value in weights.items()}


def _load(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            is_zip = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
            file.seek(0)
            check_pickles(path, file, is_zip)
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            "not loaded: it is damaged, or holds Python objects other than tensors, which could "
            f"run code ({first_line(error)})",
            file=path,
        ) from error
    except (MemoryError, CheckpointError):
        raise
    except Exception as error:  # torch raises many types for damaged files
        raise CheckpointError(f"damaged: {first_line(error)}", file=path) from error


def _check_sizes(path: Path, weights: Weights) -> None:
    """Refuse tensors that have more bytes than the file.

    A view of one number can have any shape, and a copy of it would really have that size. Tensors
    may share their numbers, so twice the file's size is allowed.
    """
    sizes = {name: value.numel() * value.element_size() for name, value in weights.items()}
    size = path.stat().st_size
    if sum(sizes.values()) > 2 * size:
        name = max(sizes, key=sizes.__getitem__)
        raise CheckpointError(
            f"damaged: {name} of shape {list(weights[name].shape)} and the other tensors claim "
            f"{sum(sizes.values())} bytes, the file has {size}",
            file=path,
        )


def _separate(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that shares no memory with larger ones of the file."""
    return tensor if tensor.untyped_storage().nbytes() <= tensor.nbytes else tensor.clone()


def by_name(path: Path, tensors: Iterable[tuple[Any, Any]]) -> Weights:
    """Tensors by their names.

    Raises:
        CheckpointError: a name is not a string or occurs twice, or a value is not a tensor.
    """
    weights: Weights = {}
    for name, value in tensors:
        if not isinstance(name, str):
            raise CheckpointError("expected tensors by their names", file=path)
        if len(name) > _MAX_NAME or not name.isprintable():
            raise CheckpointError(f"damaged: a tensor named {name!r:.100}", file=path)
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{name}: expected a tensor, found {type(value)}", file=path)
        if name in weights:
            raise CheckpointError(f"duplicate tensor {name}", file=path)
        weights[name] = value
    return weights


def read_safetensors(path: Path) -> Weights:
    """The tensors of a safetensors file, mapped. The library checks sizes before it uses them."""
    with requires_extra("huggingface", "safetensors"):
        from safetensors import SafetensorError, safe_open
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            weights = by_name(path, ((name, file.get_tensor(name)) for name in names))
    except (MemoryError, CheckpointError):
        raise
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"damaged: {first_line(error)}", file=path) from error
    if not weights:
        raise CheckpointError("it contains no tensors", file=path)
    return weights


def write_pickle(content: Any, path: Path) -> None:
    """Write a file with torch.save.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        with path.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:  # torch replaces an OSError of the file
        cause = error.__context__
        raise (
            cause if isinstance(cause, OSError) else OSError(f"{path}: {first_line(error)}")
        ) from error


def write_safetensors(weights: Weights, path: Path) -> None:
    """Write tensors to a safetensors file.

    Raises:
        OSError: the file cannot be written.
        MissingExtraError: safetensors is not installed.
    """
    with requires_extra("huggingface", "safetensors"):
        from safetensors import SafetensorError
        from safetensors.torch import save_file
    try:
        save_file(weights, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{path}: {first_line(error)}") from error
