"""Reports which branches tests take: `python tools/coverage.py c build/coverage`, or `python ...`.

`c` reads gcov's files below the directory and writes c.html and engine.html there; `python` reads
python.json of coverage.py, and prints a line for each package. Both end with status 2 where fewer
branches were taken than the limits here say.

A branch of C that is never taken is marked in a comment of its line, with the reason, in the manner
of SQLite's macros: `/* NEVER: why this is not so */` or `/* ALWAYS: why this is so */`. gcovr then
counts none of the branches of that line. pyproject.toml has what coverage.py does not count.
tests/package/test_coverage_marks.py checks both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from cnclip import _core
from cnclip.errors import InvalidInputError

ROOT = Path(__file__).resolve().parent.parent
# Percent of the branches.
CORE_LIMIT = 100
ENGINE_LIMIT = 95
PYTHON_LIMIT = 95

MARK = r"/\* (NEVER|ALWAYS): \w"
# Statements that are one of Python's macros, whose branches are not ours.
PYTHON_MACRO = r"\s*Py_(CLEAR|VISIT)\(.*\);"
# What the engine does where there is a GPU.
ON_GPU = r".*(cuda|CUDA|_tower|resizer|resizes)"

# The sets of csrc/base/cpu.h, and the object files for each: csrc/meson.build, tests/c/meson.build.
OBJECTS = {
    "avx2": "libcore_avx2",
    "avx_vnni": "libcore_avx_vnni",
    "avx512": "libcore_avx512",
    "avx512_vnni": "libcore_avx512_vnni|libvnni_evex",
    "avx512_bf16": "libcore_avx512_bf16",
    "neon": "libcore_neon",
    "neon_i8mm": "libcore_neon_i8mm",
}


def lacks(isa: str) -> bool:
    """Whether this machine cannot run an instruction set."""
    os.environ["CNCLIP_FORCE_ISA"] = isa
    try:
        _core.ImageProcessor(1)
    except InvalidInputError:
        return True
    finally:
        del os.environ["CNCLIP_FORCE_ISA"]
    return False


def report(
    directory: Path, page: str, limit: float, ignored: list[str], options: list[str]
) -> bool:
    """Print a table and write a page. False: fewer branches than `limit` percent."""
    command = [sys.executable, "-m", "gcovr", "--root", ".", "--merge-mode-functions", "separate"]
    command += ["--gcov-suspicious-hits-threshold", "0"]
    command += ["--exclude-branches-by-pattern", "|".join([f".*{MARK}", *ignored])]
    command += ["--html-details", str(directory / page), "--txt-metric", "branch", "--txt", "-"]
    command += ["--fail-under-branch", str(limit)]
    return subprocess.run([*command, *options, str(directory)], cwd=ROOT).returncode == 0


def report_c(directory: Path) -> bool:
    """Report on the core, then on the engine. False: fewer branches than a limit."""
    missing = [isa for isa in OBJECTS if lacks(isa)]
    left_out = [f"--exclude-directories=.*/({OBJECTS[isa]})\\.a\\.p" for isa in missing]
    core = ["--filter", "csrc/", "--exclude", "csrc/engine/torch", *left_out]
    # What only a GPU runs, and exceptions, which most calls of libtorch may throw.
    engine = ["--filter", "csrc/engine/torch", "--exclude", "csrc/engine/torch/cuda"]
    engine += ["--exclude-throw-branches"]
    print("C without the torch engine", flush=True)
    passed = report(directory, "c.html", CORE_LIMIT, [PYTHON_MACRO], core)
    if missing:
        print(f"Left out, since this processor does not run them: {', '.join(missing)}.")
    print("The torch engine without CUDA and exceptions", flush=True)
    passed &= report(directory, "engine.html", ENGINE_LIMIT, [ON_GPU], engine)
    return passed


def report_python(measured: dict[str, dict[str, dict[str, int | float | str]]]) -> bool:
    """Print the branches and statements of each package. False: fewer branches than the limit.

    `measured` has the summary of each file, as coverage.py writes it.
    """
    packages: dict[str, Counter[str]] = {}
    for file, found in measured.items():
        inner = file.rpartition("cnclip/")[2] if "cnclip/" in file else file
        name = inner.partition("/")[0] if "/" in inner else "(modules)"
        counts = {key: value for key, value in found["summary"].items() if isinstance(value, int)}
        packages.setdefault(name, Counter()).update(counts)
    every = sum(packages.values(), Counter())
    for name, counts in [*sorted(packages.items()), ("cnclip", every)]:
        shares = []
        for kind, covered in (("branches", "covered_branches"), ("statements", "covered_lines")):
            total = counts[f"num_{kind}"]
            shares.append(
                f"{counts[covered]} of {total} {kind}, {percent(counts[covered], total)} %"
            )
        print(f"{name:14}  {'; '.join(shares)}")
    return every["covered_branches"] * 100 >= PYTHON_LIMIT * every["num_branches"]


def percent(part: int, whole: int) -> str:
    """One decimal, rounded down: 100.0 means all."""
    return f"{1000 * part // whole / 10 if whole else 100:.1f}"


def main() -> int:
    """Report on C or Python."""
    language, directory = sys.argv[1], Path(sys.argv[2])
    if language == "c":
        return 0 if report_c(directory) else 2
    measured = json.loads((directory / "python.json").read_text(encoding="utf-8"))["files"]
    return 0 if report_python(measured) else 2


if __name__ == "__main__":
    sys.exit(main())
