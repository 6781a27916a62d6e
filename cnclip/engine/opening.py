"""Opens the engine that matches the installed torch."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .. import _core
from .._files import replaced_atomically
from ..cache import file_without_cache, private_directory
from ..errors import EngineError
from .build import CompilerError, compile_engine, find_compiler, source_files
from .libtorch import (
    LIBRARY_SUFFIX,
    NEWEST,
    Torch,
    dotted,
    find_torch,
    load_cuda,
    load_libraries,
)

logger = logging.getLogger("cnclip")

_PACKAGE = Path(__file__).resolve().parent
# Bytes. The largest tensors of a batch of a small model are below it.
_KEPT_BLOCK = 8 << 20


@functools.cache
def open_engine() -> _core.Engine:
    """The engine for the installed torch, whose libraries it loads. A process has one.

    `$CNCLIP_ENGINE` names a file to use in place of the one that would be chosen.

    Raises:
        EngineError: there is no torch, no engine that fits it, and none can be compiled.
    """
    torch = find_torch()
    load_libraries(torch)
    _keep_freed_memory()
    if chosen := os.environ.get("CNCLIP_ENGINE"):
        return _core.Engine(chosen)
    if (included := included_engines().get(torch.minor)) is not None:
        try:
            return _core.Engine(included)
        except EngineError as error:
            # torch is another build of the same version, such as one for another C++ library.
            logger.warning(
                "the included engine does not fit torch %s: %s", torch.version, error.reason
            )
    return _core.Engine(compiled_engine(torch))


def _keep_freed_memory() -> None:
    """Make glibc keep some freed memory, up to 16 MiB, for the next batch.

    At first it returns all above 128 KiB to the system, and each batch of a small model has a
    hundred page faults per image. The limit becomes twice the largest block of up to 32 MiB that
    was freed, see M_MMAP_THRESHOLD in mallopt(3); this block is never written to. Models of the
    published sizes free larger ones anyway.
    """
    np.empty(_KEPT_BLOCK, np.uint8)


def cuda_count() -> int:
    """How many CUDA devices the engine can use: 0 without a GPU, its driver or a torch for CUDA.

    Raises:
        EngineError: see `open_engine`.
    """
    engine = open_engine()
    return engine.device_count("cuda") if load_cuda(find_torch()) else 0


def find_engine(torch: Torch) -> Path | None:
    """The engine that would be used with a torch; None where it would be compiled first."""
    if chosen := os.environ.get("CNCLIP_ENGINE"):
        return Path(chosen)
    if (included := included_engines().get(torch.minor)) is not None:
        return included
    with contextlib.suppress(OSError):
        cached = private_directory("engines") / _file_name(torch)
        return cached if cached.is_file() else None
    return None


def included_engines() -> dict[tuple[int, int], Path]:
    """The engines in the package, by the minor version of torch that each was compiled for."""
    found = {}
    for path in sorted(_PACKAGE.glob(f"torch-*{LIBRARY_SUFFIX}")):
        if match := re.fullmatch(r"torch-(\d+)\.(\d+)", path.name.removesuffix(LIBRARY_SUFFIX)):
            found[int(match[1]), int(match[2])] = path
    return dict(sorted(found.items()))


def compiled_engine(torch: Torch) -> Path:
    """The engine for a torch in the cache, compiled if the cache has none.

    If the cache directory cannot be used, a warning is logged, and the engine is compiled into a
    temporary directory that is removed when the process ends.

    Raises:
        EngineError: there is no compiler, or it failed.
    """
    if torch.minor > NEWEST:
        logger.warning(
            "torch %s is newer than %s, the newest tested", torch.version, dotted(NEWEST)
        )
    try:
        engine = private_directory("engines") / _file_name(torch)
        if engine.is_file():
            return engine
        with _locked(engine.with_suffix(".lock")):
            if not engine.is_file():  # another process may have compiled it meanwhile
                with replaced_atomically(engine, mode=0o700) as temporary:
                    _compile(torch, temporary)
    except OSError as error:
        engine = file_without_cache(_file_name(torch), error)
        _compile(torch, engine)
    return engine


def _compile(torch: Torch, output: Path) -> None:
    try:
        compiler = find_compiler()
        logger.warning(
            "compiling the engine for torch %s with %s, once: this takes about half a minute",
            torch.version,
            compiler,
        )
        compile_engine(torch.directory, output)
    except CompilerError as error:
        versions = " or ".join(map(dotted, included_engines()))
        included = f"engines for torch {versions} only" if versions else "no engine"
        raise EngineError(
            f"this cnclip includes {included}, torch {torch.version} is installed, and the engine "
            f"for it cannot be compiled ({error.reason}): "
            + (f"install torch {versions}, or a compiler" if versions else "install g++")
        ) from error


def _file_name(torch: Torch) -> str:
    """The name in the cache, with a digest of all that the engine depends on."""
    digest = hashlib.sha256(f"{sys.platform} {platform.machine()}\n".encode())
    digest.update(torch.description.encode())
    for file in (*source_files(), _PACKAGE / "build.py"):
        digest.update(file.read_bytes())
    version = re.sub(r"[^\w.+-]", "_", torch.version, flags=re.ASCII)[:40]
    return f"torch-{version}-{digest.hexdigest()[:32]}{LIBRARY_SUFFIX}"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes of this user out of the block; they wait."""
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
