"""Checks of pickles before they are loaded, against files that were made to do harm.

torch.load with `weights_only=True` runs no code of a file, but it accepts more than tensors, such
as bytearray and Counter, with which 300 bytes fill all memory or run for hours.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from .._text import printable
from ..errors import CheckpointError

# All that the dense tensors of a state_dict need.
_GLOBALS = re.compile(
    r"collections OrderedDict|torch [A-Z]\w+Storage"
    r"|torch\._utils _rebuild_(?:tensor|tensor_v2|parameter)"
)
# Bytes of a pickle without its tensors' numbers; those of published models have 100 kB.
_MAX_PICKLE = 4 << 20
# Values in a tuple, counting those of tuples within it; a tensor needs about twenty.
_MAX_TUPLE = 256
# Files in torch's format before zip have this many pickles, followed by the tensors' numbers.
_PICKLES_BEFORE_ZIP = 5


def check_pickles(path: Path, file: IO[bytes], is_zip: bool) -> None:
    """Check the pickles of a file that torch.save wrote.

    Args:
        path: The file, for messages.
        file: The open file, at its start.
        is_zip: Whether it has torch's zip format.

    Raises:
        pickle.UnpicklingError: a pickle makes other things than tensors, or would take too much
            memory or time.
        CheckpointError: a pickle claims more than all memory.
    """
    try:
        if not is_zip:
            for _ in range(_PICKLES_BEFORE_ZIP):
                check_pickle(file)
            return
        # torch's own reader, so that the bytes that are checked are those that are loaded.
        reader = torch._C.PyTorchFileReader(file)
        if _pickle_size(reader, file) > _MAX_PICKLE:
            raise pickle.UnpicklingError(f"data.pkl has more than {_MAX_PICKLE} bytes")
        check_pickle(reader.get_record("data.pkl"))
    except MemoryError as error:
        reason = "damaged: a pickle claims more than all memory"
        raise CheckpointError(reason, file=path) from error


def _pickle_size(reader: Any, file: IO[bytes]) -> int:
    """Bytes of a zip's data.pkl. The reader of torch 2.9 to 2.11 has no method for it."""
    if hasattr(reader, "get_record_size"):
        return int(reader.get_record_size("data.pkl"))
    with zipfile.ZipFile(file) as archive:
        # Without case, in case torch's reader compares names so.
        members = [m for m in archive.infolist() if m.filename.lower().endswith("/data.pkl")]
    return max((member.file_size for member in members), default=0)


def check_pickle(content: bytes | IO[bytes]) -> None:
    """Check one pickle.

    A tuple that has the same tuple twice, which has another one twice, and so on, needs few bytes,
    but hashing it as a key of a dict takes forever. So the check keeps the size of each value that
    the pickle pushes, pops and stores.

    Raises:
        pickle.UnpicklingError: it makes other things than tensors, or is too large.
    """
    # The pickle's stack, with the size of each value in place of the value. A MARK is not on it:
    # `marks` has the height of the stack at each one. `stored` is the pickle's memo.
    stack: list[int] = []
    marks: list[int] = []
    stored: dict[Any, int] = {}
    start: int | None = None
    for code, argument, position in pickletools.genops(content):
        start = position if start is None else start
        if (position or 0) - (start or 0) > _MAX_PICKLE:
            raise pickle.UnpicklingError(f"a pickle has more than {_MAX_PICKLE} bytes")
        # torch's unpickler knows no STACK_GLOBAL, so GLOBAL is the only way to a function or class.
        # REDUCE calls and BUILD sets the state of what these names make, and nothing else.
        if code.name == "GLOBAL" and _GLOBALS.fullmatch(str(argument)) is None:
            name = printable(str(argument)[:100]).replace(" ", ".")
            raise pickle.UnpicklingError(f"{name} makes no dense tensor")
        if code.name == "MARK":
            marks.append(len(stack))
            continue
        if code.name.endswith("PUT"):
            stored[argument] = stack[-1]
            continue
        # Every other operation replaces the values from `first` on by those that it pushes: a fixed
        # number of values, or all since the last MARK and those that it takes from below the mark.
        first = len(stack) - len(code.stack_before)
        if pickletools.markobject in code.stack_before:
            first = marks.pop() - code.stack_before.index(pickletools.markobject)
        size = stored[argument] if code.name.endswith("GET") else 1
        if "TUPLE" in code.name:
            size += sum(stack[max(first, 0) :])
        if size > _MAX_TUPLE:
            raise pickle.UnpicklingError(f"a tuple has {size} values")
        stack[max(first, 0) :] = [size] * len(code.stack_after)
