"""`cnclip info ARCHIVE`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from .._tables import format_table
from .._text import printable
from ..archive import is_archive, read_archive
from ..models import find_model, open_archive

SUMMARY = "print the metadata of an archive or checkpoint"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "archive", metavar="ARCHIVE", help="an archive; a checkpoint is converted first"
    )
    parser.add_argument("--json", action="store_true", help="print the metadata as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print one line per field. Runs no code of the archive."""
    path = find_model(arguments.archive)
    info = read_archive(path) if is_archive(path) else open_archive(path)
    if arguments.json:
        print(json.dumps(info.metadata, indent=1))
        return 0
    values = {"archive": str(info.path), "bytes": info.path.stat().st_size} | info.metadata
    rows = [(printable(name), printable(str(value))) for name, value in _flattened(values)]
    print(format_table(rows, [False, False], underlined=False))
    return 0


def _flattened(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
