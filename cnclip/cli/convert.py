"""`cnclip convert SRC -o OUT.cnclip.pt`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .. import convert as conversion
from ..archive import SUFFIX
from ..errors import InvalidInputError

SUMMARY = "convert a model directory to an archive"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("source", metavar="SRC", help="a ModelScope model directory, or emoji-cn")
    parser.add_argument(
        "-o",
        "--output",
        metavar=f"OUT{SUFFIX}",
        required=True,
        help="the archive to write; its directory must exist",
    )


def run(arguments: argparse.Namespace) -> int:
    """Convert, and name the archive on stdout."""
    if Path(arguments.output).is_dir():
        raise InvalidInputError(f"{arguments.output}: is a directory, expected a file name")
    info = conversion.convert(arguments.source, arguments.output)
    print(f"{info.path} ({info.path.stat().st_size / 1e6:.1f} MB)")
    return 0
