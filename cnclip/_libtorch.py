"""Finds the installed torch, checks its version and loads its shared libraries.

Python's `torch` package is not imported: the C core needs only the libraries, which load in a tenth
of the time. Importing torch before or after is fine; the process has one copy either way.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import sys
from pathlib import Path

from ._built_with import TORCH as BUILT_FOR
from ._text import first_line

_SUFFIX = ".dylib" if sys.platform == "darwin" else ".so"


def torch_directory() -> Path:
    """The installed torch package's directory, found without importing it.

    Raises:
        ImportError: torch is not installed.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            f"cnclip needs torch {BUILT_FOR}, which is not installed: "
            f"pip install 'torch=={BUILT_FOR}.*'"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def check_version(directory: Path) -> None:
    """Refuse a torch whose C++ interface is not the one that the core was compiled against.

    Raises:
        ImportError: another minor version; says what to install.
    """
    file = directory / "version.py"
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    found = re.search(r"^__version__[^=\n]*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    version = found.group(1) if found else "unknown"
    if version.split(".")[:2] != BUILT_FOR.split("."):
        raise ImportError(
            f"this cnclip was built for torch {BUILT_FOR}, but torch {version} is installed: "
            f"pip install 'torch=={BUILT_FOR}.*', or reinstall cnclip to build it for this torch"
        )


def load() -> None:
    """Load the libraries that `cnclip._core` links to.

    By path, so that those of the checked torch are taken whatever the dynamic linker would find.

    Raises:
        ImportError: torch is missing, of another minor version, or incomplete.
    """
    directory = torch_directory()
    check_version(directory)
    for name in ("libc10", "libtorch_cpu"):
        try:
            ctypes.CDLL(str(directory / "lib" / (name + _SUFFIX)))
        except OSError as error:
            reason = first_line(error)
            raise ImportError(f"the libraries of torch cannot be loaded: {reason}") from error


def load_cuda() -> bool:
    """Load torch's CUDA library if this torch has one.

    Returns:
        Whether it is loaded: False for a CPU-only torch or where a driver library is missing.
    """
    library = torch_directory() / "lib" / ("libtorch_cuda" + _SUFFIX)
    if not library.exists():
        return False
    try:
        ctypes.CDLL(str(library))
    except OSError:
        return False
    return True
