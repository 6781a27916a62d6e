"""Too little memory is not called damage, a missing package, or one failed item."""

from __future__ import annotations

import ast
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cnclip
from cnclip import cli, errors
from cnclip._checks import requires_extra
from cnclip.bulk import EmbedOptions, embed
from cnclip.errors import MissingExtraError, OutOfMemoryError
from cnclip.preprocessors import decoding
from tests.package.test_layers import FILES, tree_of

# Handlers of all exceptions that hand the exception on as it is.
HAND_ON = {
    "cnclip.preprocessors._prefetch",
    "cnclip.serve.batching.dispatch",  # of callbacks, whose errors nothing may end
    "cnclip.serve.batching.workers",
    "cnclip.serve.application",
}
EVERYTHING = {"Exception", "ArrowException"}


def handlers() -> Iterator[tuple[str, ast.Try, int]]:
    """Each `except` clause that catches a MemoryError with other exceptions."""
    for name in FILES:
        for node in ast.walk(tree_of(name)):
            if isinstance(node, ast.Try):
                for number, handler in enumerate(node.handlers):
                    if handler.type is not None and EVERYTHING & names_in(handler.type):
                        yield name, node, number


def names_in(tree: ast.AST) -> set[str]:
    found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return found | {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def test_memory_is_looked_at_before_all_exceptions() -> None:
    found = 0
    for name, node, number in handlers():
        found += 1
        last = node.handlers[number].body[-1]
        raises_it = isinstance(last, ast.Raise) and last.exc is None
        before = [one.type for one in node.handlers[:number] if one.type is not None]
        is_first = any("MemoryError" in names_in(one) for one in before)
        is_same = len(node.handlers[number].body) == 1 and raises_it
        assert is_first or is_same or name in HAND_ON or _looks_inside(node.handlers[number]), (
            f"{name}:{node.handlers[number].lineno}: except MemoryError first"
        )
    assert found > 20


def _looks_inside(handler: ast.ExceptHandler) -> bool:
    return "MemoryError" in names_in(handler) or "raised" in names_in(handler)


@pytest.mark.parametrize(
    "error", [MemoryError(), MemoryError("malloc of size 64 failed"), OutOfMemoryError("too large")]
)
def test_a_command_without_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: MemoryError
) -> None:
    def fails(arguments: Any) -> int:
        raise error

    monkeypatch.setattr(cli.info, "run", fails)
    assert cli.main(["info", "--environment"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"cnclip info: (out of memory(: malloc .*)?|too large)", line)


def test_an_import_without_memory_is_no_missing_package() -> None:
    with pytest.raises(MemoryError), requires_extra("search", "faiss-cpu"):
        raise MemoryError
    with pytest.raises(MissingExtraError) as raised, requires_extra("search", "faiss-cpu"):
        raise ImportError("libfaiss.so: failed to map segment: cannot allocate memory")
    assert raised.value.problem == "libfaiss.so: failed to map segment: cannot allocate memory"
    assert "not installed" not in str(raised.value)
    copied = pickle.loads(pickle.dumps(raised.value))
    assert str(copied) == str(raised.value)
    with pytest.raises(MissingExtraError) as raised, requires_extra("search", "faiss-cpu"):
        raise ModuleNotFoundError("No module named 'faiss'", name="faiss")
    assert raised.value.problem is None
    assert "pip install 'cnclip[search]'" in str(raised.value)


def test_an_image_without_memory_is_no_failed_item(
    archive: Path, tmp_path: Path, image_paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / image_paths[0].name).write_bytes(image_paths[0].read_bytes())

    def fails(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(decoding, "open_bounded", fails)
    pipeline = cnclip.pipeline(model=archive, device="cpu")
    with pytest.raises(MemoryError):
        embed(folder, pipeline, tmp_path / "out", EmbedOptions())


def test_a_table_without_memory_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrow = pytest.importorskip("pyarrow")
    from cnclip.search.items import ItemTable

    def fails(*_: Any) -> None:
        raise arrow.lib.ArrowMemoryError("malloc of size 64 failed")

    monkeypatch.setattr(arrow.ipc, "open_file", fails)
    with pytest.raises(MemoryError):
        ItemTable.from_buffer(memoryview(b""))  # type: ignore[arg-type]
    assert not issubclass(arrow.lib.ArrowMemoryError, errors.CnclipError)
