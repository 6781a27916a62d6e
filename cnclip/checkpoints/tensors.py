"""Files of tensors: torch's pickles, read as tensors only, and safetensors."""

from __future__ import annotations

import errno
import logging
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from .._checks import requires_extra
from .._files import check_file, open_file
from .._text import first_line
from ..errors import CheckpointError
from .checkpoint import Weights
from .file_kinds import ZIP_MAGIC, is_safetensors
from .files import ADAPTER, SAFETENSORS_SUFFIX
from .hostile_pickles import check_pickles

logger = logging.getLogger("cnclip")

# Keys under which training programs store the tensors, as Lightning and cn_clip do.
_KEYS = ("state_dict", "model", "model_state_dict", "module", "net", "weights")
# torch.compile puts this before the names of a module.
_COMPILED = "_orig_mod."
# Tensors by which the prefix of a model's names is found.
_ANCHORS = (
    "bert.embeddings.word_embeddings.weight",
    "text_model.embeddings.word_embeddings.weight",
)
_LIGHTNING = b"pytorch-lightning_version"
_MAX_NAME = 200


def read_tensors(paths: Iterable[Path]) -> Weights:
    """The tensors of a model by their names in it; those of safetensors files are mapped.

    Args:
        paths: The files, at least one.

    Raises:
        CheckpointError: a file is damaged, two hold a tensor of the same name, or they hold
            adapters or several models.
        MissingExtraError: safetensors is not installed.
    """
    weights: Weights = {}
    for path in paths:
        if path.suffix == ".json":  # an index of the others
            continue
        named = path.suffix == SAFETENSORS_SUFFIX
        read = read_safetensors if named or is_safetensors(path) else read_pickle
        for name, tensor in read(path).items():
            if name in weights:
                raise CheckpointError(f"{name} is in another file too", file=path)
            weights[name] = tensor
        if any(".lora_" in name for name in weights):
            raise CheckpointError(ADAPTER, file=path)
    return _without_prefix(path, weights)


def read_pickle(path: Path) -> Weights:
    """The tensors of a file that torch.save wrote.

    Raises:
        CheckpointError: it is damaged, or holds anything but tensors by their names.
    """
    weights = _unwrapped(_load(path))
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError("expected a dict of tensors", file=path)
    weights = by_name(path, weights.items())
    _check_sizes(path, weights)
    return {name: _separate(value.detach()) for name, value in weights.items()}


def _unwrapped(content: Any) -> Any:
    """The innermost dict under one of the usual keys."""
    while isinstance(content, dict):
        key = next((key for key in _KEYS if key in content), None)
        if key is None or isinstance(content[key], torch.Tensor):
            break
        content = content[key]
    return content


def _without_prefix(path: Path, weights: Weights) -> Weights:
    """The tensors of the model, without the prefix of the modules that contain it.

    Raises:
        CheckpointError: there are several models.
    """
    plain = by_name(path, ((name.replace(_COMPILED, ""), value) for name, value in weights.items()))
    prefixes = {
        name.removesuffix(anchor)
        for name in plain
        for anchor in _ANCHORS
        if name == anchor or name.endswith(f".{anchor}")
    }
    if not prefixes or "" in prefixes:
        return plain
    if len(prefixes) > 1:
        raise CheckpointError(
            f"it holds {len(prefixes)} models, {', '.join(sorted(prefixes))}; save one of them",
            file=path,
        )
    prefix = prefixes.pop()
    inner = {name.removeprefix(prefix): v for name, v in plain.items() if name.startswith(prefix)}
    if len(inner) < len(plain):
        logger.info(
            "%s: %d tensors outside of %s are not used", path, len(plain) - len(inner), prefix
        )
    return inner


def _load(path: Path) -> Any:
    try:
        with open_file(path) as file:
            is_zip = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
            file.seek(0)
            check_pickles(path, file, is_zip)
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        kind = "of PyTorch Lightning " if is_zip and _has_lightning(path) else ""
        raise CheckpointError(
            f"not loaded: it {kind}is damaged, or holds Python objects other than tensors, which "
            f"could run code ({first_line(error)}). If you trust it, save its tensors alone: "
            "torch.save(torch.load(FILE, weights_only=False)['state_dict'], 'weights.pt')",
            file=path,
        ) from error
    except (MemoryError, CheckpointError):
        raise
    except Exception as error:  # torch raises many types for damaged files
        raise CheckpointError(f"damaged: {first_line(error)}", file=path) from error


def _has_lightning(path: Path) -> bool:
    with open_file(path) as file:
        return _LIGHTNING in torch._C.PyTorchFileReader(file).get_record("data.pkl")


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


def by_name(path: Path | None, tensors: Iterable[tuple[Any, Any]]) -> Weights:
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
            raise CheckpointError(
                f"{name}: expected a tensor, found {type(value).__name__}", file=path
            )
        if name in weights:
            raise CheckpointError(f"duplicate tensor {name}", file=path)
        weights[name] = value
    return weights


def read_safetensors(path: Path) -> Weights:
    """The tensors of a safetensors file, mapped. The library checks sizes before it uses them."""
    with requires_extra("huggingface", "safetensors"):
        from safetensors import SafetensorError, safe_open
    try:
        check_file(path)
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
        raise (cause if isinstance(cause, OSError) else _unwritten(path, error)) from error


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
        raise _unwritten(path, error) from error


def _unwritten(path: Path, error: Exception) -> OSError:
    return OSError(errno.EIO, first_line(error), str(path))
