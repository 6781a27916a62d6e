"""The command line: `cnclip COMMAND`. One file per command, with SUMMARY, `configure` and `run`.

WORDS in it is the name of an argument that takes many words.
The top layer: it may import everything, and nothing imports it.
"""

from __future__ import annotations

import copy
import io
import logging
import os
import sys
from dataclasses import replace
from typing import Any

from .. import __version__
from .._options import environment
from .._text import first_line, printable
from ..errors import CnclipError
from ..preprocessors.formats import FORMATS_VARIABLE
from ..preprocessors.pillow_warnings import collect_warnings
from . import bench, convert, demo, embed, evaluate, index, info, search, serve, train
from ._arguments import print_message, variables_of
from ._parser import Parser, nearest, parse

COMMANDS: dict[str, Any] = {
    "convert": convert,
    "info": info,
    "demo": demo,
    "bench": bench,
    "embed": embed,
    "index": index,
    "search": search,
    "serve": serve,
    "eval": evaluate,
    "train": train,
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        Exit status: 0, 1 (some items failed, each named on stderr), 2 (bad usage or nothing done),
        130 (interrupted).
    """
    parser = Parser(
        prog="cnclip", description="Chinese-CLIP embeddings of images and Chinese texts."
    )
    parser.add_argument("--version", action="version", version=f"cnclip {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["help"]:
        given = [*given[1:], "--help"]
    for name, module in COMMANDS.items():
        summary = module.SUMMARY
        command = commands.add_parser(name, help=summary, description=f"{summary.capitalize()}.")
        if name in given:  # the others import modules in vain
            module.configure(command)
    if given and not given[0].startswith("-") and given[0] not in COMMANDS:
        parser.error(f"no command {printable(given[0])}{nearest(given[0], COMMANDS)}")
    parsed = parse(parser, given, {n: m.WORDS for n, m in COMMANDS.items() if hasattr(m, "WORDS")})
    if parsed.command is None:
        parser.print_help(sys.stderr)
        return 2
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper) and (out.errors == "strict" or out.encoding != "utf-8"):
        # A character that the terminal's encoding lacks is escaped.
        out.reconfigure(errors="backslashreplace")
    if not logging.getLogger().handlers:
        # Other packages log their progress at INFO.
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
        logging.getLogger("cnclip").setLevel(logging.INFO)
    collect_warnings()
    defaults = {FORMATS_VARIABLE: "common"} if "formats" in parsed else {}
    try:
        with environment(variables_of(parsed), defaults):
            status: int = COMMANDS[parsed.command].run(parsed)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The reader of our output has closed it, as `head` does; Python must not flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError as error:
        print_message(parsed.command, _out_of_memory(error))
        return 2
    except CnclipError as error:
        print_message(parsed.command, _as_typed(error))
        return 2
    except OSError as error:
        print_message(parsed.command, _described(error))
        return 2
    except KeyboardInterrupt:
        print_message(parsed.command, "interrupted")
        return 130


def _out_of_memory(error: MemoryError) -> str:
    """The message of an error of too little memory, whichever library raised it."""
    if isinstance(error, CnclipError):
        return str(_as_typed(error))
    reason = first_line(error) if str(error) else ""
    return f"out of memory: {reason}" if reason else "out of memory"


def _as_typed(error: CnclipError) -> CnclipError:
    """The error; an option that it names is named as it is typed: `--batch-size`."""
    where = error.where
    if where is None or where.item is None or where.file is not None:
        return error
    shown = copy.copy(error)
    shown.where = replace(where, item=Parser.deepest.option_of(where.item) or where.item)
    return shown


def _described(error: OSError) -> str:
    """An error of the system without its number: the file and the reason."""
    name = error.filename
    if error.strerror is None or name is None:
        return first_line(error)
    shown = os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else str(name)
    return f"{printable(shown)}: {first_line(error)[:1].lower()}{first_line(error)[1:]}"
