"""Runs a program in this process as `python` would have run it."""

from __future__ import annotations

import importlib.util
import io
import multiprocessing.spawn
import os
import runpy
import sys
import zipfile
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from types import CodeType, ModuleType, TracebackType
from typing import Any, NoReturn

USAGE_STATUS = 2
# Frames of these files come before those of the program.
_OUTER = (os.path.dirname(__file__) + os.sep, "<frozen runpy>", runpy.__file__)


def run(arguments: list[str], usage: str | None) -> None:
    """Run the program that a command line names.

    The program finds what it finds under `python`: `sys.argv`, `sys.path`, `__main__`, `__file__`.
    Exceptions end the process with their usual statuses, and tracebacks begin in the program.
    Processes that it starts with multiprocessing have the stand-ins as well.

    Args:
        arguments: The command line after `-m cnclip.modelscope`.
        usage: Printed for `--help`, and where no program is named.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print((usage or "").strip(), file=sys.stdout if arguments else sys.stderr)
        sys.exit(0 if arguments else USAGE_STATUS)
    first, rest = arguments[0], arguments[1:]
    _reach_children()
    if first in ("-m", "-c"):
        if not rest:
            _refuse(f"argument expected for the {first} option")
        (_run_module if first == "-m" else _run_code)(rest[0], rest[1:])
    elif first == "-":
        source = sys.stdin.read()
        _execute(source, "<stdin>", ["-", *rest], "")
    elif first.startswith("-"):
        _refuse(f"unknown option {first}; see --help")
    else:
        _run_script(first, rest)


def _refuse(message: str, status: int = USAGE_STATUS) -> NoReturn:
    print(f"python -m cnclip.modelscope: {message}", file=sys.stderr)
    sys.exit(status)


def _run_code(code: str, arguments: list[str]) -> None:
    _execute(code, "<string>", ["-c", *arguments], "")


def _run_script(script: str, arguments: list[str]) -> None:
    path = os.path.abspath(script)
    if os.path.isdir(path) or zipfile.is_zipfile(path):
        if not _has_main(path):
            _refuse(f"can't find '__main__' module in {script!r}", 1)
        sys.argv[:] = [script, *arguments]
        _set_path(path)
        _guard(lambda: runpy.run_path(script, run_name="__main__"))
        return
    try:
        with io.open_code(path) as file:
            source = file.read()
    except OSError as error:
        _refuse(f"can't open file {path!r}: [Errno {error.errno}] {error.strerror}")
    folder = os.path.dirname(os.path.realpath(path))
    _execute(source, path, [script, *arguments], folder, SourceFileLoader("__main__", path))


def _has_main(place: str) -> bool:
    if os.path.isdir(place):
        return os.path.isfile(os.path.join(place, "__main__.py"))
    with zipfile.ZipFile(place) as file:
        return "__main__.py" in file.namelist()


def _run_module(name: str, arguments: list[str]) -> None:
    sys.argv[:] = ["-m", *arguments]  # runpy puts the module's file in place of the first
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):  # that a parent package imports
            raise
        found = None
    if found is None:
        _refuse(f"No module named {name}", 1)
    _guard(lambda: runpy.run_module(name, run_name="__main__", alter_sys=True))


def _execute(
    source: str | bytes,
    name: str,
    arguments: list[str],
    folder: str,
    loader: SourceFileLoader | None = None,
) -> None:
    """Run source code as `__main__`.

    Args:
        source: The code.
        name: Its file, or what tracebacks show in its place.
        arguments: `sys.argv`.
        folder: The first entry of `sys.path`.
        loader: Of the file, if it has one.
    """
    sys.argv[:] = arguments
    _set_path(folder)
    module = ModuleType("__main__")
    values: dict[str, Any] = vars(module)
    values |= {"__builtins__": __builtins__, "__annotations__": {}, "__loader__": loader}
    if loader is not None:
        values |= {"__file__": name, "__cached__": None}
    sys.modules["__main__"] = module
    _guard(lambda: exec(_compiled(source, name), values))


def _compiled(source: str | bytes, name: str) -> CodeType:
    code: CodeType = compile(source, name, "exec", dont_inherit=True)
    return code


def _set_path(folder: str) -> None:
    """Replace the first entry of `sys.path`, which is the working directory's, as `python` sets it.

    With `python -P` there is no such entry.
    """
    if not sys.flags.safe_path:
        sys.path[0] = folder


def _guard(run_program: Callable[[], object]) -> None:
    """Run a program; tracebacks of its exceptions lack the frames before its own."""
    try:
        run_program()
    except SystemExit:
        raise
    except BaseException:
        show = sys.excepthook

        def show_inner(
            kind: type[BaseException], error: BaseException, trace: TracebackType | None
        ) -> None:
            while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OUTER):
                trace = trace.tb_next
            show(kind, error.with_traceback(trace), trace)

        sys.excepthook = show_inner
        raise


class _Installer:
    """An object that installs the stand-ins where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _install, ()


def _install() -> None:
    """Do nothing: importing this module has installed them."""


def _reach_children() -> None:
    """Install the stand-ins in processes that multiprocessing spawns, before their program."""
    prepare = multiprocessing.spawn.get_preparation_data

    def prepare_with_stand_ins(name: str) -> dict[str, Any]:
        return {**prepare(name), "cnclip": _Installer()}

    multiprocessing.spawn.get_preparation_data = prepare_with_stand_ins
