"""Reports which C tests run: `python tools/coverage.py build/coverage`, for `make coverage`.

Reads gcov's files below the directory and writes c.html and engine.html there. It ends with
status 2 where fewer branches were taken than the limits here say.

A branch that is never taken is marked in a comment of its line, with the reason, in the manner of
SQLite's macros: `/* NEVER: why this is not so */` or `/* ALWAYS: why this is so */`. gcovr then
counts none of the branches of that line. tests/package/test_coverage_marks.py checks the marks.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cnclip import _core
from cnclip.errors import InvalidInputError

ROOT = Path(__file__).resolve().parent.parent
# Percent of the branches.
CORE_LIMIT = 100
ENGINE_LIMIT = 89

MARK = r"/\* (NEVER|ALWAYS): \w"
# Statements that are one of Python's macros, whose branches are not ours.
PYTHON_MACRO = r"\s*Py_(CLEAR|VISIT)\(.*\);"
# What the engine does where there is a GPU.
ON_GPU = r".*(cuda|CUDA|_tower)"

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


def main() -> int:
    """Report on the core, then on the engine."""
    directory = Path(sys.argv[1])
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
    return 0 if passed else 2


if __name__ == "__main__":
    sys.exit(main())
