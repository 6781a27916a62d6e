"""Compiles the engine for one version of torch: `build.py --torch DIRECTORY --output FILE`.

Wheels include engines that this file compiled, and `opening.py` compiles one at its first use. It
needs only a C++ compiler and the standard library, so it also runs where cnclip is not built yet.
What only compiling needs is imported then: the names of cached engines are computed at each start.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Installed packages have a copy of the sources, a checkout has the folder itself.
SOURCES = HERE / "csrc" if (HERE / "csrc").is_dir() else HERE.parent.parent / "csrc"
CUDA = "engine/torch/cuda"
COMPILED = (
    "engine/torch/torch_engine.cpp",
    "engine/torch/torch_ops.cpp",
    "engine/torch/torch_prepared.cpp",
    f"{CUDA}/cuda_compiler.cpp",
    f"{CUDA}/cuda_hopper.cpp",
    f"{CUDA}/cuda_kernels.cpp",
    f"{CUDA}/cuda_library.cpp",
    f"{CUDA}/cuda_products.cpp",
    f"{CUDA}/cuda_resize.cpp",
    f"{CUDA}/cuda_runs.cpp",
    f"{CUDA}/cuda_towers.cpp",
    f"{CUDA}/cuda_transformer.cpp",
)
# The engine contains them as text, which NVRTC compiles at run time for the GPU that it finds.
KERNELS = (f"{CUDA}/cuda_kernels.cu", f"{CUDA}/cuda_hopper.cu", f"{CUDA}/cuda_resize.cu")

# -fopenmp: libtorch's parallel loops are templates; without OpenMP they run on one thread.
COMPILE = ["-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-DNDEBUG"]
COMPILE += ["-Wall", "-Wextra", *(["-fopenmp"] if sys.platform == "linux" else [])]
EXPORTED = "cnclip_engine_get"
# Of an engine that is compiled for gcov: writes the counts, which a forked child would lose.
WRITE_COUNTS = "__gcov_dump"


class CompilerError(Exception):
    """There is no compiler, or it failed.

    Attributes:
        reason: Which compiler, and why.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def find_compiler() -> str:
    """The C++ compiler: `$CXX`, or the first of g++, c++ and clang++.

    Raises:
        CompilerError: there is none.
    """
    wanted = os.environ.get("CXX")
    for name in [wanted] if wanted else ["g++", "c++", "clang++"]:
        if path := shutil.which(name):
            return path
    raise CompilerError(f"no C++ compiler: {wanted or 'g++'} is not installed")


def source_files() -> list[Path]:
    """Every file that the engine is made of, sorted: its sources and the headers they include."""
    files = [SOURCES / name for name in (*COMPILED, *KERNELS)]
    for pattern in ("base/*.h", "engine/*.h", "engine/torch/**/*.hpp", "image/*.h", "kernels/*.h"):
        files += SOURCES.glob(pattern)
    return sorted(files)


def compile_engine(
    torch: Path, output: Path, options: Sequence[str] = (), kept: Path | None = None
) -> None:
    """Compile and link the engine.

    The engine needs torch's libraries by name and finds OpenMP's functions in the OpenMP library
    that these need: it links to no OpenMP library, so that the process has one.

    Args:
        torch: torch's package, with include/ and lib/.
        output: The shared object to write.
        options: More options for compiling and linking.
        kept: A directory for the objects, which are temporary without it.

    Raises:
        CompilerError: there is no compiler, or it failed.
    """
    import tempfile

    compiler = find_compiler()
    include = torch / "include"
    paths = [include, include / "torch" / "csrc" / "api" / "include"]
    with tempfile.TemporaryDirectory(prefix="cnclip-engine-") as temporary:
        folder = kept or Path(temporary)
        write_kernels(folder)
        flags = [*COMPILE, *options, f"-I{SOURCES}", f"-I{folder}"]
        flags += [f"-isystem{path}" for path in paths]
        objects = [folder / f"{Path(name).stem}.o" for name in COMPILED]
        commands = [
            [compiler, *flags, "-c", str(SOURCES / name), "-o", str(path)]
            for name, path in zip(COMPILED, objects, strict=True)
        ]
        _run_at_once(commands)
        exported = [EXPORTED, WRITE_COUNTS] if "--coverage" in options else [EXPORTED]
        link = ["-shared", *_export_flags(folder, exported), *options, "-o", str(output), "-ldl"]
        libraries = [f"-L{torch / 'lib'}", "-ltorch_cpu", "-lc10"]
        _run_at_once([[compiler, *map(str, objects), *link, *libraries]])


def write_kernels(folder: Path) -> None:
    """Write the kernels as string literals, which `cuda_compiler.cpp` includes."""
    for name in KERNELS:
        text = (SOURCES / name).read_text(encoding="utf-8")
        included = folder / Path(name).with_suffix(".inc").name
        included.write_text(f'R"cuda({text})cuda"\n', encoding="utf-8")


def _export_flags(folder: Path, exported: list[str]) -> list[str]:
    """Linker flags that hide all other symbols, such as weak C++ symbols of torch's headers."""
    if sys.platform == "darwin":
        flags = [f"-Wl,-exported_symbol,_{name}" for name in exported]
        return [*flags, "-undefined", "dynamic_lookup"]
    script = folder / "exports.map"
    script.write_text(f"{{ global: {'; '.join(exported)}; local: *; }};\n", encoding="ascii")
    return [f"-Wl,--version-script={script}", *(f"-Wl,-u,{name}" for name in exported)]


def _run_at_once(commands: list[list[str]]) -> None:
    """Run commands at the same time.

    Raises:
        CompilerError: one failed; its errors, or how it ended.
    """
    import subprocess

    with contextlib.ExitStack() as running:
        processes = []
        for command in commands:
            try:
                process = subprocess.Popen(
                    command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
                )
            except OSError as error:
                reason = f"{command[0]} cannot be run: {error.strerror}"
                raise CompilerError(reason) from error
            running.enter_context(process)
            running.callback(process.kill)
            processes.append(process)
        for process in processes:
            printed = process.communicate()[0].decode(errors="replace")
            if process.returncode != 0:
                lines = [line for line in printed.splitlines() if "error" in line] or [printed]
                status = f"failed with status {process.returncode}"
                raise CompilerError(f"{commands[0][0]} {status}: {lines[0].strip()}")
            sys.stderr.write(printed)  # warnings


def main() -> None:
    """Compile as the command line says."""
    import argparse

    parser = argparse.ArgumentParser(description="compile the engine for one version of torch")
    parser.add_argument("--torch", type=Path, help="directory of torch's package")
    parser.add_argument("--output", type=Path, help="shared object to write")
    parser.add_argument("--werror", action="store_true", help="treat warnings as errors")
    parser.add_argument("--sanitize", metavar="NAMES", help="compile with -fsanitize=NAMES")
    parser.add_argument(
        "--coverage", type=Path, metavar="DIRECTORY", help="compile for gcov; its files go there"
    )
    parser.add_argument("--sources", action="store_true", help="only list the engine's sources")
    arguments = parser.parse_args()
    if arguments.sources:
        print(*(path.relative_to(SOURCES) for path in source_files()), sep="\n")
        return
    if arguments.torch is None or arguments.output is None:
        parser.error("--torch and --output are required")
    options = ["-Werror"] if arguments.werror else []
    if arguments.sanitize:
        options += [f"-fsanitize={arguments.sanitize}", "-fno-omit-frame-pointer", "-g1"]
    if arguments.coverage is not None:
        arguments.coverage.mkdir(parents=True, exist_ok=True)
        options += ["--coverage", "-fprofile-update=atomic", "-O0"]
    try:
        compile_engine(arguments.torch, arguments.output, options, arguments.coverage)
    except CompilerError as error:
        sys.exit(f"build.py: {error.reason}")


if __name__ == "__main__":
    main()
