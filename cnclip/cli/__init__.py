"""The command line: `cnclip COMMAND`. One file a command, each with `configure` and `run`.

The uppermost room: may import everything. A command is imported when it is called.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys

from .. import __version__
from ..errors import CnclipError

COMMANDS = {
    "convert": "convert a model directory to an archive",
    "info": "print what an archive or model directory holds",
    "demo": "run the example on the pictures that ship",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        Exit status: 0, 1 (some items failed, each named on stderr), 2 (bad usage or nothing done),
        130 (interrupted).
    """
    parser = argparse.ArgumentParser(
        prog="cnclip", description="Chinese-CLIP embeddings of pictures and Chinese texts."
    )
    parser.add_argument("--version", action="version", version=f"cnclip {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
    chosen = next((word for word in arguments or sys.argv[1:] if word in COMMANDS), None)
    if chosen is not None:
        module = importlib.import_module(f"{__name__}.{chosen}")
        module.configure(commands.choices[chosen])
    parsed = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return int(module.run(parsed))
    except (CnclipError, OSError) as error:
        print(f"cnclip {parsed.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"cnclip {parsed.command}: interrupted", file=sys.stderr)
        return 130
