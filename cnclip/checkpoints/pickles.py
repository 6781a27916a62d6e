"""Pickles of torch's, read as tensors only."""

from __future__ import annotations

import os
import pickle
import pickletools
import re
from pathlib import Path
from typing import IO, Any

import torch

from ..archive import printable
from ..errors import CheckpointError
from .checkpoint import Weights, by_name
from .files import ZIP_MAGIC

# Written by training wrappers around the model, in the order in which they are stripped.
PREFIXES = ("module.", "_orig_mod.", "clip_model.")

# All that the dense tensors of a state_dict need. torch takes more where it reads weights only,
# such as bytearray and Counter, with which 300 bytes fill all memory or run for ever.
_GLOBALS = re.compile(
    r"collections OrderedDict|torch [A-Z]\w+Storage"
    r"|torch\._utils _rebuild_(?:tensor|tensor_v2|parameter)"
)
# Of a pickle without its tensors' numbers; published models have 100 kB.
_MAX_PICKLE = 4 << 20
# Values in a tuple, tuples within it unfolded; what makes a tensor has about twenty.
_MAX_TUPLE = 256
# Before it wrote zips, torch wrote so many pickles, and the tensors' numbers behind them.
_PICKLES_BEFORE_ZIP = 5


def read_pickle(path: Path) -> Weights:
    """The tensors of a file that torch.save wrote, under the names that they have in the model.

    Raises:
        CheckpointError: it is damaged, or holds anything but tensors by their names.
    """
    content = _load(path)
    weights = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f"{path}: expected a dict of tensors")
    weights = by_name(path, weights.items())
    _check_sizes(path, weights)
    for prefix in PREFIXES:
        if next(iter(weights)).startswith(prefix):
            stripped = ((name.removeprefix(prefix), value) for name, value in weights.items())
            weights = by_name(path, stripped)
    return {name: _on_its_own(value.detach()) for name, value in weights.items()}


def write_pickle(content: Any, path: Path) -> None:
    """Write with torch.save.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        with path.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:  # what torch makes of the file's OSError
        cause = error.__context__
        raise cause if isinstance(cause, OSError) else OSError(f"{path}: {error}") from error


def _check_sizes(path: Path, weights: Weights) -> None:
    """Refuse tensors of more bytes than the file has.

    A view of one number may have any shape, and what is made of it would be as large. Twice the
    file's size, since tensors may share their numbers.
    """
    sizes = {name: value.numel() * value.element_size() for name, value in weights.items()}
    size = path.stat().st_size
    if sum(sizes.values()) > 2 * size:
        name = max(sizes, key=sizes.__getitem__)
        raise CheckpointError(
            f"{path}: damaged: {name} of shape {list(weights[name].shape)} and the others claim "
            f"{sum(sizes.values())} bytes, the file has {size}"
        )


def _on_its_own(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with which nothing is kept, or written again, that others of the file held."""
    return tensor if tensor.untyped_storage().nbytes() <= tensor.nbytes else tensor.clone()


def _load(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            is_zip = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
            file.seek(0)
            _check_pickles(path, file, is_zip)
            file.seek(0)
            # Mapped where that is possible: of zips, and by a name that libtorch can take.
            mapped = is_zip and _is_utf8(path)
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


def _check_pickles(path: Path, file: IO[bytes], is_zip: bool) -> None:
    """Look through the pickles of a file before they are run."""
    try:
        if not is_zip:
            for _ in range(_PICKLES_BEFORE_ZIP):
                _check_pickle(file)
            return
        # By torch's own reader, so that what is looked at is what will be run.
        reader = torch._C.PyTorchFileReader(file)
        if reader.get_record_size("data.pkl") > _MAX_PICKLE:
            raise pickle.UnpicklingError(f"data.pkl has more than {_MAX_PICKLE} bytes")
        _check_pickle(reader.get_record("data.pkl"))
    except MemoryError as error:
        raise CheckpointError(f"{path}: damaged: a pickle claims more than all memory") from error


def _check_pickle(source: bytes | IO[bytes]) -> None:
    """Raise an UnpicklingError for a pickle of other things than tensors, or that is a bomb.

    A tuple of the same tuple twice, and that twice again, has few bytes, but as the key of a dict
    it takes for ever. So this follows the sizes of what the pickle pushes, pops and keeps.
    """
    stack: list[int] = []
    marks: list[int] = []
    kept: dict[Any, int] = {}
    start: int | None = None
    for code, argument, position in pickletools.genops(source):
        start = position if start is None else start
        if (position or 0) - (start or 0) > _MAX_PICKLE:
            raise pickle.UnpicklingError(f"a pickle has more than {_MAX_PICKLE} bytes")
        if code.name == "GLOBAL" and _GLOBALS.fullmatch(str(argument)) is None:
            what = printable(str(argument)[:100]).replace(" ", ".")
            raise pickle.UnpicklingError(f"{what} makes no dense tensor")
        if code.name == "MARK":
            marks.append(len(stack))
            continue
        if code.name.endswith("PUT"):
            kept[argument] = stack[-1]
            continue
        first = len(stack) - len(code.stack_before)
        if pickletools.markobject in code.stack_before:
            first = marks.pop() - code.stack_before.index(pickletools.markobject)
        size = kept[argument] if code.name.endswith("GET") else 1
        if "TUPLE" in code.name:
            size += sum(stack[max(first, 0) :])
        if size > _MAX_TUPLE:
            raise pickle.UnpicklingError(f"a tuple has {size} values")
        stack[max(first, 0) :] = [size] * len(code.stack_after)


def _is_utf8(path: Path) -> bool:
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def first_line(error: BaseException) -> str:
    """The beginning of an error's message, without what a terminal would obey."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", str(error)).strip()
    return printable((plain.splitlines() or [type(error).__name__])[0][:300])
