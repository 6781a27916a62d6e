"""Pickles that run code, or that take all memory or time, fail the check before they are loaded."""

from __future__ import annotations

import io
import pickle
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from cnclip.checkpoints import hostile_pickles
from cnclip.checkpoints.hostile_pickles import check_pickle, check_pickles


class SlowDict:
    """Its pickle is that of a dict whose only key takes forever to hash.

    The key is a tuple of the same tuple twice, and so on, which is small in a pickle. No such dict
    is made here, since that would hash the key.
    """

    def __reduce__(self) -> Any:
        key: tuple[Any, ...] = (1,)
        for _ in range(30):
            key = (key, key)
        return OrderedDict, (), None, None, iter([(key, 1)])


def saved(content: Any, *, as_zip: bool) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=as_zip)
    file.seek(0)
    return file


@pytest.mark.parametrize("as_zip", [True, False])
def test_tensors_pass(as_zip: bool) -> None:
    tensors = OrderedDict(a=torch.ones(3), b=torch.nn.Parameter(torch.zeros(2, 2).half()))
    content = {"state_dict": tensors, "epoch": 3, "sizes": (1, (2, 3)), "name": "x"}
    check_pickles(Path("a.pt"), saved(content, as_zip=as_zip), as_zip)


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": Counter("ab")}, "collections.Counter makes no dense tensor"),
        ({"a": bytearray(5)}, "makes no dense tensor"),
        ({"a": Path("x")}, "makes no dense tensor"),
        (SlowDict(), "a tuple has"),
    ],
    ids=["counter", "bytearray", "path", "nested tuples"],
)
def test_other_contents_are_refused(content: Any, message: str, as_zip: bool) -> None:
    with pytest.raises(pickle.UnpicklingError, match=message):
        check_pickles(Path("a.pt"), saved(content, as_zip=as_zip), as_zip)


def test_code_is_refused() -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return print, ("it runs",)

    with pytest.raises(pickle.UnpicklingError, match="print makes no dense tensor"):
        check_pickle(pickle.dumps(Hostile(), protocol=2))


class OlderReader:
    """The reader of torch 2.9 to 2.11, which has no `get_record_size`."""

    def __init__(self, file: io.BytesIO) -> None:
        self.get_record = NEW_READER(file).get_record


NEW_READER = torch._C.PyTorchFileReader


@pytest.mark.parametrize("reader", [NEW_READER, OlderReader])
def test_large_pickles_are_refused(monkeypatch: pytest.MonkeyPatch, reader: type) -> None:
    monkeypatch.setattr(torch._C, "PyTorchFileReader", reader)
    check_pickles(Path("a.pt"), saved({"a": torch.ones(3)}, as_zip=True), True)
    monkeypatch.setattr(hostile_pickles, "_MAX_PICKLE", 1000)
    with pytest.raises(pickle.UnpicklingError, match="more than 1000 bytes"):
        check_pickle(pickle.dumps(list(range(1000)), protocol=2))
    with pytest.raises(pickle.UnpicklingError, match=r"data\.pkl has more than 1000 bytes"):
        check_pickles(Path("a.pt"), saved(["x" * 50] * 1 + list(range(1000)), as_zip=True), True)


def test_truncated_pickles_are_refused() -> None:
    content = pickle.dumps([1, 2, 3], protocol=2)
    with pytest.raises(Exception, match="pickle exhausted|no more bytes|exhausted"):
        check_pickle(content[:-1])
