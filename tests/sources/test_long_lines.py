"""Lines that are too long are skipped and named."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnclip import _encoding
from cnclip.sources import Problems, tables
from cnclip.sources.rows import Columns
from cnclip.sources.tables import TextFormat, read_table

LIMIT = 1000
LONG = b"x" * (5 * LIMIT)


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_LINE", LIMIT)
    monkeypatch.setattr(tables, "MAX_ENTRY", LIMIT)
    monkeypatch.setattr(tables, "_BUFFER", 64)


@pytest.mark.parametrize(
    ("name", "content", "texts", "line"),
    [
        ("a.txt", b"one\n" + LONG + b"\ntwo\n", ["one", "two"], 2),
        ("a.txt", LONG + b"\ntwo", ["two"], 1),
        ("a.txt", b"one\n" + LONG, ["one"], 2),
        ("a.csv", b"text\none\n" + LONG + b"\ntwo\n", ["one", "two"], 3),
        ("a.csv", b"text\none\n" + LONG, ["one"], 3),
        ("a.tsv", b"text\tid\none\t1\n" + LONG + b"\ntwo\t2\n", ["one", "two"], 3),
        ("a.jsonl", b'{"text": "one"}\n' + LONG + b'\n{"text": "two"}\n', ["one", "two"], 2),
    ],
)
def test_long_lines(tmp_path: Path, name: str, content: bytes, texts: list[str], line: int) -> None:
    (tmp_path / name).write_bytes(content)
    problems = Problems()
    rows = list(read_table(tmp_path / name, name, Columns.of("texts"), problems))
    assert [row.text for row in rows] == texts
    (problem,) = problems.found
    assert problem.where.file == name
    assert problem.where.line == line
    assert str(LIMIT) in problem.reason


def test_lines_at_the_limit(tmp_path: Path) -> None:
    longest = b"x" * (LIMIT - 1)
    (tmp_path / "a.txt").write_bytes(longest + b"\n" + longest)
    problems = Problems()
    rows = list(read_table(tmp_path / "a.txt", "a.txt", Columns.of("texts"), problems))
    assert [len(row.text) for row in rows] == [LIMIT - 1] * 2
    assert not problems.found


def test_long_entries_between_nul_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\0" + LONG + b"\0two\0" + LONG)
    problems = Problems()
    format = TextFormat(nul=True)
    rows = list(read_table(tmp_path / "a.txt", "a", Columns.of("texts"), problems, format))
    assert [(row.number, row.text) for row in rows] == [(1, "one"), (3, "two")]
    assert [problem.where.line for problem in problems.found] == [2, 4]


def test_long_text_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_encoding, "MAX_TEXT", 10)
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * 10)
    assert _encoding.read_text(path)[0] == "x" * 10
    path.write_bytes(b"x" * 11)
    with pytest.raises(OSError, match="more than 10 bytes") as raised:
        _encoding.read_text(path)
    assert raised.value.filename == str(path)
