"""Builds the extension cnclip._core: C11 and one C++ file, against the torch that is installed.

Everything else about the package stands in pyproject.toml.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CSRC = Path("csrc")
DEVELOPMENT = os.environ.get("CNCLIP_DEVELOPMENT") == "1"
SANITIZE = os.environ.get("CNCLIP_SANITIZE", "")

# What CPython looks up; the rest stays inside, so that no other library's symbol of the same name,
# nor a weak C++ one of libtorch's headers, is shared across the process.
EXPORTED = "PyInit__core"

WARNINGS = ["-Wall", "-Wextra"] + (["-Werror"] if DEVELOPMENT else [])
COMMON_FLAGS = ["-O2", "-g1", "-fvisibility=hidden", "-ffp-contract=off", *WARNINGS]
C_FLAGS = ["-std=c11", "-Wstrict-prototypes", "-Wshadow"]
# libtorch's parallel loops are templates: without OpenMP in their compiler they run on one thread.
CXX_FLAGS = ["-std=c++20"] + (["-fopenmp"] if sys.platform == "linux" else [])
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma", "-mf16c"]
AVX512_VNNI = [*AVX512, "-mavx512vnni"]
ISA_FLAGS = {
    "_avx2": ["-mavx2"],
    "_avx512": AVX512,
    "_avx512_vnni": AVX512_VNNI,
    "_avx512_bf16": [*AVX512_VNNI, "-mavx512bf16"],
}


def is_x86() -> bool:
    """Whether the extension is compiled for x86-64."""
    return platform.machine().lower() in {"x86_64", "amd64"}


def flags_of(source: str) -> list[str]:
    """Compiler flags for one source file."""
    path = Path(source)
    flags = [*COMMON_FLAGS, *(CXX_FLAGS if path.suffix == ".cpp" else C_FLAGS)]
    if SANITIZE:
        flags += [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer"]
    if is_x86():
        suffixes = [flags for suffix, flags in ISA_FLAGS.items() if path.stem.endswith(suffix)]
        flags += suffixes[0] if suffixes else ["-march=x86-64-v2"]
    return flags


def link_flags(generated: Path) -> list[str]:
    """Linker flags: torch's libraries by a relative path, one exported symbol."""
    if sys.platform == "darwin":
        return ["-Wl,-rpath,@loader_path/../torch/lib", f"-Wl,-exported_symbol,_{EXPORTED}"]
    script = generated / "exports.map"
    script.write_text(f"{{ global: {EXPORTED}; local: *; }};\n", encoding="ascii")
    return ["-Wl,-rpath,$ORIGIN/../torch/lib", f"-Wl,--version-script={script}"]


def openmp_library(directories: list[str]) -> str:
    """The OpenMP library that torch brings: the shim sets its thread count, the process has one."""
    for pattern in ("libgomp*.so*", "libomp*", "libiomp*"):
        for directory in directories:
            for library in sorted(Path(directory).glob(pattern)):
                return str(library)
    sys.exit(f"building cnclip: torch has no OpenMP library in {', '.join(directories)}")


class BuildCore(build_ext):
    """Compiles each file with its own flags, links to the installed torch by a relative rpath."""

    def build_extension(self, ext: Extension) -> None:
        """Ask torch for its paths and ABI, generate the Unicode tables, then compile and link."""
        try:
            import numpy
            import torch
            from torch.utils import cpp_extension
        except ImportError as error:
            sys.exit(f"building cnclip needs torch 2.13 and numpy: {error}")

        generated = Path(self.build_temp) / "generated"
        generated.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [sys.executable, CSRC / "generate_unicode_tables.py", generated / "unicode_tables.h"],
            check=True,
        )
        ext.include_dirs = [str(CSRC), str(generated)]
        # Other projects' headers are not held to our warnings.
        system = [numpy.get_include(), *cpp_extension.include_paths()]
        ext.extra_compile_args = [part for path in system for part in ("-isystem", path)]
        ext.extra_compile_args += [
            f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
            "-DNDEBUG",
        ]
        ext.library_dirs = cpp_extension.library_paths()
        ext.libraries = ["torch_cpu", "c10"]
        ext.extra_link_args = [*link_flags(generated), openmp_library(ext.library_dirs)]
        if SANITIZE:
            ext.extra_link_args.append(f"-fsanitize={SANITIZE}")

        compile_one = self.compiler._compile

        def compile_with_own_flags(obj, src, ext_name, cc_args, extra, pp_opts):  # type: ignore[no-untyped-def]
            return compile_one(obj, src, ext_name, cc_args, [*extra, *flags_of(src)], pp_opts)

        self.compiler._compile = compile_with_own_flags
        try:
            super().build_extension(ext)
        finally:
            self.compiler._compile = compile_one

    def run(self) -> None:
        """Build, and record the torch that was built against for the check at import."""
        super().run()
        import torch

        major, minor = torch.__version__.split(".")[:2]
        package = Path("." if self.inplace or self.editable_mode else self.build_lib) / "cnclip"
        (package / "_built_with.py").write_text(
            '"""Written by setup.py: what the extension was compiled against."""\n\n'
            f'TORCH = "{major}.{minor}"\n'
        )


def sources() -> list[str]:
    """Every C and C++ file of csrc/, in a fixed order."""
    return sorted(str(path) for path in [*CSRC.glob("*.c"), *CSRC.glob("*.cpp")])


setup(
    ext_modules=[
        Extension(
            "cnclip._core",
            sources(),
            depends=sorted(str(path) for path in CSRC.glob("*.h")),
        )
    ],
    cmdclass={"build_ext": BuildCore},
)
