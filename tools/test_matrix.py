"""Tests the wheels with pairs of Python and torch: `test_matrix.py [PYTHON:TORCH ...]`

Each pair has a new virtual environment with the wheel for the Python, the version of torch and the
packages that the tests need. The tests run from a copy without the package, so they import the
installed one. A pair takes minutes and up to 8 GB: torch's wheels for Linux need CUDA's packages,
without which `import torch` fails, even where there is no GPU.

PYTHON is a minor version, or `this` for the Python that runs the script. A pair whose Python or
torch is not available is reported, which is no failure; the exit status is 1 if tests failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from wheels import find_python

ROOT = Path(__file__).resolve().parents[1]
# Every minor version of torch, and every Python with a recent one.
PAIRS = [
    "3.11:2.9.1",
    "3.12:2.10.0",
    "3.13:2.11.0",
    "3.12:2.12.1",
    "3.11:2.13.0",
    "3.11:2.14.1",
    "3.12:2.14.1",
    "3.13:2.14.1",
    "3.13:2.9.1",
    "3.12:2.15.0",
]
TESTS = [
    "tests/parity",
    "tests/pipelines",
    "tests/checkpoints",
    "tests/cli",
    "tests/core",
    "tests/engine",
    "tests/package/test_environment.py",
    "tests/package/test_import.py",
]
# Those of the group `test` in pyproject.toml that these tests use.
REQUIREMENTS = {
    "faiss-cpu",
    "huggingface_hub",
    "hypothesis",
    "psutil",
    "pyarrow",
    "pytest",
    "pytest-xdist",
    "safetensors",
    "transformers",
}
HEADER = ["| Python | torch | engine | tests |", "|---|---|---|---|"]
PIP = ("-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check")
# Compiles the engine if the wheel has none for this torch, and logs a warning that says so.
PROBE = (
    "import json, cnclip\n"
    "from cnclip.engine import open_engine\n"
    "from cnclip.engine.libtorch import find_torch\n"
    "open_engine()\n"
    "print(json.dumps([cnclip.__file__, find_torch().version]))\n"
)


@dataclass(frozen=True)
class Row:
    """The result of a pair, a row of the table."""

    python: str
    torch: str
    engine: str
    tests: str
    failed: bool = False

    def __str__(self) -> str:
        return f"| {self.python} | {self.torch} | {self.engine} | {self.tests} |"


def clean_environment(folder: Path) -> dict[str, str]:
    """This process's environment without the variables by which another package would be found."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CNCLIP_", "PYTHON"))}
    return {**kept, "CNCLIP_CACHE": str(folder / "cache"), "PYTHONIOENCODING": "utf-8"}


def run(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder and capture what it prints."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=clean_environment(folder),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )


def find_wheel(directory: Path, python: Path) -> Path | None:
    """The wheel in a directory for a Python."""
    command = [python, "-c", "import sys; print('cp%d%d' % sys.version_info[:2])"]
    tag = subprocess.run(command, capture_output=True, encoding="utf-8").stdout.strip()
    return next(iter(sorted(directory.glob(f"cnclip-*-{tag}-*.whl"))), None)


def requirements() -> list[str]:
    """The packages that the tests need, with the versions of pyproject.toml."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        group = tomllib.load(file)["dependency-groups"]["test"]
    names = {line: re.split(r"[^\w-]", line)[0] for line in group if isinstance(line, str)}
    found = [line for line, name in names.items() if name in REQUIREMENTS]
    assert len(found) == len(REQUIREMENTS), f"pyproject.toml has only {found}"
    return found


def test_pair(pair: str, wheels: Path, folder: Path, options: list[str]) -> Row:
    """Install a pair into a folder and run the tests there."""
    version, _, torch = pair.partition(":")
    python = Path(sys.executable) if version == "this" else find_python(version)
    if version == "this":
        version = ".".join(platform.python_version_tuple()[:2])
    if python is None:
        return Row(version, torch, "", f"not run: no Python {version} here")
    if (wheel := find_wheel(wheels, python)) is None:
        return Row(version, torch, "", "not run: no wheel for this Python")
    installed = folder / "venv" / "bin" / "python"
    for command in (
        [python, "-m", "venv", folder / "venv"],
        [installed, *PIP, "install", "--no-cache-dir", f"torch=={torch}"],
        [installed, *PIP, "install", wheel, *requirements()],
    ):
        done = run(folder, *command)
        if done.returncode != 0:
            print(done.stdout, done.stderr, sep="\n")
            return Row(version, torch, "", "not run: pip cannot install it here")
    probed = run(folder, installed, "-c", PROBE)
    if probed.returncode != 0:
        print(probed.stdout, probed.stderr, sep="\n")
        return Row(version, torch, "none", f"no engine: {last_line(probed.stderr)}", failed=True)
    package, torch = json.loads(last_line(probed.stdout))
    assert Path(package).is_relative_to(folder / "venv"), f"{package} is not the installed package"
    engine = "compiled" if "compiling the engine" in probed.stderr else "included"

    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    report = folder / "report.xml"
    pytest = [installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    chosen = ["-n", "2", "--dist", "worksteal", "-m", "not slow and not full_size"]
    tested = run(folder, *pytest, *chosen, *TESTS, *options)
    print(tested.stdout[-20_000:], tested.stderr, sep="\n")
    return Row(version, torch, engine, *summary(report, tested.returncode))


def last_line(text: str) -> str:
    """The last line of what a process printed."""
    return (text.strip().splitlines() or [""])[-1]


def summary(report: Path, status: int) -> tuple[str, bool]:
    """What pytest's report counts, and whether tests failed."""
    if not report.exists():
        return f"pytest ended with status {status}", True
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    total, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
    failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    counts = {"passed": total - skipped - failed, "failed": failed, "skipped": skipped}
    return ", ".join(f"{n} {word}" for word, n in counts.items() if n), status != 0


def write_table(file: Path, rows: list[Row]) -> None:
    """Write the table; rows of pairs that were not tested this time are kept."""
    table: dict[tuple[str, str], str] = {}
    before = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    for line in [*before, *map(str, rows)]:
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if line.startswith("|") and line not in HEADER:
            table[cells[0], cells[1].partition("+")[0]] = line
    ordered = sorted(table, key=lambda pair: [[int(n) for n in v.split(".")] for v in pair])
    lines = [*HEADER, *(table[pair] for pair in ordered)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Test the pairs of the command line."""
    parser = argparse.ArgumentParser(description="test the wheels with pairs of Python and torch")
    parser.add_argument("pairs", nargs="*", metavar="PYTHON:TORCH", help=f"({' '.join(PAIRS)})")
    parser.add_argument("--wheels", type=Path, default=ROOT / "dist", help="directory (dist/)")
    parser.add_argument("--table", type=Path, help="Markdown table in which rows are replaced")
    parser.add_argument("--options", default="", help="more options of pytest")
    arguments = parser.parse_args()
    parent = ROOT / "build" / "matrix"
    parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for pair in arguments.pairs or PAIRS:
        print(f"\n--- {pair}", flush=True)
        with tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True) as folder:
            wheels = arguments.wheels.resolve()
            rows.append(test_pair(pair, wheels, Path(folder), arguments.options.split()))
        print(rows[-1], flush=True)
        if arguments.table:
            write_table(arguments.table, rows)
    print("", *HEADER, *rows, sep="\n")
    sys.exit(any(row.failed for row in rows))


if __name__ == "__main__":
    main()
