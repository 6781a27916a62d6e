"""Builds the extension cnclip._core from the C files of csrc/.

Everything else about the package is in pyproject.toml.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CSRC = Path("csrc")
DEVELOPMENT = os.environ.get("CNCLIP_DEVELOPMENT") == "1"
SANITIZE = os.environ.get("CNCLIP_SANITIZE", "")

# The symbol that CPython looks up. All others are hidden, so that none is shared with another
# library that defines the same name, such as the weak C++ symbols of libtorch's headers.
EXPORTED = "PyInit__core"

COMMON_FLAGS = ["-O2", "-g1", "-fvisibility=hidden", *(["-Werror"] if DEVELOPMENT else [])]


def is_x86() -> bool:
    """Whether the extension is compiled for x86-64."""
    return platform.machine().lower() in {"x86_64", "amd64"}


def read_flags() -> dict[str, list[str]]:
    """The variables of csrc/flags.mk, which the Makefile includes."""
    variables: dict[str, str] = {}
    for line in (CSRC / "flags.mk").read_text(encoding="ascii").splitlines():
        name, assignment, value = line.partition(" := ")
        if assignment and not line.startswith("#"):
            variables[name] = re.sub(r"\$\((\w+)\)", lambda match: variables[match[1]], value)
    return {name: value.split() for name, value in variables.items()}


FLAGS = read_flags()


def flags_of(source: str) -> list[str]:
    """Compiler flags for one source file."""
    path = Path(source)
    flags = [*FLAGS["FLAGS_c"], *COMMON_FLAGS]
    if SANITIZE:
        flags += [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer"]
    if is_x86():
        isa = next((isa for isa in FLAGS["ISAS"] if path.stem.endswith(f"_{isa}")), "baseline")
        flags += FLAGS[f"FLAGS_{isa}"]
    return flags


def link_flags(generated: Path) -> list[str]:
    """Linker flags: one exported symbol."""
    if sys.platform == "darwin":
        return [f"-Wl,-exported_symbol,_{EXPORTED}"]
    script = generated / "exports.map"
    script.write_text(f"{{ global: {EXPORTED}; local: *; }};\n", encoding="ascii")
    return [f"-Wl,--version-script={script}"]


class BuildCore(build_ext):
    """Compiles each file with its flags."""

    def build_extension(self, ext: Extension) -> None:
        """Generate the Unicode tables, then compile and link."""
        import numpy

        generated = Path(self.build_temp) / "generated"
        generated.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [
                sys.executable,
                CSRC / "text" / "generate_unicode_tables.py",
                generated / "unicode_tables.h",
            ],
            check=True,
        )
        ext.include_dirs = [str(CSRC), str(generated)]
        # Warnings in NumPy's headers are ignored.
        ext.extra_compile_args = ["-isystem", numpy.get_include(), "-DNDEBUG"]
        ext.extra_link_args = link_flags(generated)
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


def files_of(*suffixes: str) -> list[str]:
    """The files of csrc/ with one of the suffixes, sorted."""
    return sorted(str(path) for path in CSRC.rglob("*") if path.suffix in suffixes)


setup(
    ext_modules=[
        Extension(
            "cnclip._core",
            files_of(".c"),
            depends=files_of(".h", ".mk"),
        )
    ],
    cmdclass={"build_ext": BuildCore},
)
