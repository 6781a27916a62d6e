"""Marks of branches that tests cannot take; tools/coverage.py leaves them out of its figures."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = [
    path for path in (ROOT / "csrc").rglob("*") if path.suffix in {".c", ".h", ".cpp", ".hpp"}
]
MARK = re.compile(r"/\* (?:NEVER|ALWAYS): (.*?) \*/")
BRANCH = re.compile(r"\b(if|while|for|return)\b|\?|&&|\|\|| = ")


def marked_lines() -> list[tuple[str, str, str]]:
    """The place of each mark, the line before it, and its reason."""
    found = []
    for path in SOURCES:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if match := MARK.search(line):
                place = f"{path.relative_to(ROOT)}:{number}"
                found.append((place, line[: match.start()], match[1]))
    return found


def test_each_mark_has_a_branch_and_a_reason() -> None:
    marks = marked_lines()
    assert 0 < len(marks) < 20  # few: what cannot run is better removed
    for place, code, reason in marks:
        assert BRANCH.search(code), f"{place}: no branch"
        assert len(reason.split()) >= 4, f"{place}: no reason"


def test_there_are_no_other_marks() -> None:
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"[GL]COVR?_EXCL", text), path
        words = re.findall(r"\b(?:NEVER|ALWAYS)\b", text)
        assert len(words) == len(MARK.findall(text)), f"{path}: a mark that is not on one line"
