"""Files of tensors: torch's pickles, read as tensors only, and safetensors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .._text import first_line
from ..errors import CheckpointError, MissingExtraError
from .checkpoint import Weights, by_name
from .pickles import read_pickle


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
        read = read_safetensors if path.suffix == ".safetensors" else read_pickle
        for name, tensor in read(path).items():
            if name in weights:
                raise CheckpointError(f"{name} is in another file too", file=path)
            weights[name] = tensor
    return weights


def read_safetensors(path: Path) -> Weights:
    """The tensors of a safetensors file, mapped. The library checks sizes before it uses them."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise MissingExtraError("huggingface", "safetensors") from error
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
        raise OSError(f"{path}: {first_line(error)}") from error
