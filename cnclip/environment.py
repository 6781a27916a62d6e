"""What cnclip finds on this machine: for bug reports, and for the reports of benchmarks."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from . import _core
from ._cores import usable_cores
from ._text import HIDDEN, first_line, hide_secrets
from .cache import cache_directory
from .engine import cuda_count, find_engine, included_engines
from .engine.build import CompilerError, find_compiler
from .engine.libtorch import dotted, find_torch
from .errors import CnclipError
from .version import __version__

# Environment variables that change what cnclip does.
_VARIABLES = re.compile(
    r"CNCLIP_.*|HF_ENDPOINT|HF_HOME|MODELSCOPE_CACHE|OMP_NUM_THREADS|OMP_WAIT_POLICY"
    r"|CUDA_VISIBLE_DEVICES|LD_PRELOAD"
)
# Their values are keys of a server, and what sites are asked with, such as cookies.
_SECRET_VARIABLES = {"CNCLIP_API_KEYS", "CNCLIP_HEADERS"}


def describe_environment() -> dict[str, Any]:
    """Describe the versions and the machine, and what is missing.

    Loads the engine if there is one, and compiles none.

    Returns:
        Strings, numbers, lists and dictionaries of them, as JSON has them. `torch` and `engine` say
        what is wrong where they cannot be used. `extras` has the state of each extra: `installed`,
        or the packages that it lacks and the command that installs them. `variables` hides secrets.
    """
    return {
        "cnclip": __version__,
        "package": str(Path(__file__).parent),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": platform.platform(),
        **describe_processor(),
        **_describe_torch(),
        **{name: _version(name) or "not installed" for name in ("numpy", "pillow")},
        "cache": _describe_cache(),
        "extras": {extra: _state(extra, packages) for extra, packages in _extras().items()},
        "variables": {
            name: HIDDEN if name in _SECRET_VARIABLES else hide_secrets(value)
            for name, value in sorted(os.environ.items())
            if _VARIABLES.fullmatch(name)
        },
    }


def describe_processor() -> dict[str, str | int]:
    """The processor's name, the cores that this process may use, and the kernels' instructions."""
    try:
        isa = _core.ImageProcessor(224).isa
    except CnclipError as error:  # $CNCLIP_FORCE_ISA names one that this machine lacks
        isa = error.reason
    return {"processor": _processor_name(), "cores": usable_cores(), "isa": isa}


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _describe_torch() -> dict[str, Any]:
    included = [dotted(version) for version in included_engines()]
    try:
        torch = find_torch()
    except CnclipError as error:
        return {"torch": str(error), "engine": "none without torch", "included engines": included}
    return {
        "torch": f"{torch.version}, {torch.directory}",
        "engine": _describe_engine(find_engine(torch)),
        "included engines": included,
    }


def _describe_engine(path: Path | None) -> str:
    if path is None:
        try:
            return f"none yet: the first pipeline compiles it with {find_compiler()}"
        except CompilerError as error:
            return f"none, and it cannot be compiled: {error.reason}"
    try:
        return f"{path}, {cuda_count()} CUDA devices"
    except CnclipError as error:
        return str(error)


def _describe_cache() -> str:
    try:
        directory = cache_directory()
    except OSError as error:
        return first_line(error)
    # The first directory that exists decides whether the others can be made.
    existing = next(each for each in (directory, *directory.parents) if each.exists())
    is_usable = existing.is_dir() and os.access(existing, os.W_OK)
    return f"{directory}{'' if is_usable else ', which cannot be written'}"


def _extras() -> dict[str, list[str]]:
    """The packages of each extra, from the metadata of the installed cnclip."""
    extras: dict[str, list[str]] = {}
    for package, extra in _optional_requirements():
        extras.setdefault(extra, []).append(package)
    return dict(sorted(extras.items()))


def _optional_requirements() -> Iterator[tuple[str, str]]:
    try:
        lines = metadata.requires("cnclip") or []
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return
    for line in lines:
        requirement, _, marker = line.partition(";")
        extra = re.search(r"\bextra\s*==\s*['\"]([^'\"]+)", marker)
        package = re.match(r"[\w.-]+", requirement.strip())
        # An extra that is made of others requires cnclip itself.
        if extra is not None and package is not None and package[0] != "cnclip":
            yield package[0], extra[1]


def _state(extra: str, packages: list[str]) -> str:
    missing = [package for package in packages if _version(package) is None]
    if not missing:
        return "installed"
    return f"lacks {', '.join(missing)}: pip install 'cnclip[{extra}]'"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
