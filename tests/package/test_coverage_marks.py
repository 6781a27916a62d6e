"""Marks of branches that tests cannot take; tools/coverage.py leaves them out of its figures."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

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


def test_each_exclusion_of_python_has_a_reason() -> None:
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    start = lines.index("exclude_also = [")
    inner = lines[start + 1 : lines.index("]", start)]
    reasons, patterns = inner[::2], inner[1::2]
    assert len(patterns) < 10 and all(reason.startswith("  # ") for reason in reasons)
    settings = tomllib.loads("\n".join(lines))["tool"]["coverage"]["report"]
    assert len(patterns) == len(settings["exclude_also"])
    for pattern in settings["exclude_also"]:
        sources = (ROOT / "cnclip").rglob("*.py")
        found = [path for path in sources if re.search(pattern, path.read_text("utf-8"), re.M)]
        assert found, f"{pattern!r} excludes nothing"


@pytest.fixture
def tool() -> ModuleType:
    path = ROOT / "tools" / "coverage.py"
    if not path.exists():
        pytest.skip("not a checkout")
    spec = importlib.util.spec_from_file_location("coverage_tool", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_fewer_branches_of_python_than_the_limit(
    tool: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def file(branches: int) -> dict[str, dict[str, int | float | str]]:
        counts = {"num_branches": 100, "covered_branches": branches}
        counts |= {"num_statements": 50, "covered_lines": 49}
        return {"summary": {**counts, "percent_covered": 1.0, "percent_covered_display": "1"}}

    other = {"/x/site-packages/cnclip/bulk/store.py": file(100)}
    assert tool.report_python({"cnclip/bulk/embed.py": file(90), **other})
    assert not tool.report_python({"cnclip/bulk/embed.py": file(89), **other})
    assert tool.report_python({"cnclip/archive.py": file(99)})
    printed = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()) for line in printed[1:4:2]] == [
        "cnclip 190 of 200 branches, 95.0 %; 98 of 100 statements, 98.0 %",
        "cnclip 189 of 200 branches, 94.5 %; 98 of 100 statements, 98.0 %",
    ]
    assert printed[4].startswith("(modules)")
