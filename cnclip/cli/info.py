"""`cnclip info MODEL` and `cnclip info --environment`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .._tables import format_table
from .._text import printable
from ..archive import is_archive
from ..checkpoints.files import read_onnx_description
from ..environment import describe_environment
from ..models import find_model, open_archive, read_known_archive
from ..prepared import prepared_files

SUMMARY = "print the metadata of an archive, checkpoint or ONNX folder, or the environment"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument(
        "archive", metavar="ARCHIVE", nargs="?", help="an archive; a checkpoint is converted first"
    )
    subject.add_argument(
        "--environment",
        action="store_true",
        help="print versions, processor, torch, engine and extras: include it in a bug report",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print one line per field. Runs no code of the archive."""
    if arguments.environment:
        fields = values = describe_environment()
    else:
        path = find_model(arguments.archive)
        fields, values = _onnx_fields(path) or _archive_fields(path)
    if arguments.json:
        print(json.dumps(fields, indent=1))
        return 0
    rows = [(printable(name), printable(str(value))) for name, value in _flattened(values)]
    print(format_table(rows, [False, False], underlined=False))
    return 0


def _archive_fields(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The metadata of an archive or checkpoint, and with the facts of the file."""
    info = read_known_archive(path) if is_archive(path) else open_archive(path)
    return info.metadata, {
        "archive": str(info.path),
        "bytes": info.path.stat().st_size,
        "prepared": [str(file) for file in prepared_files(info)],
        **info.metadata,
    }


def _onnx_fields(path: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The same of a folder that `cnclip convert --to onnx` wrote, or of an ONNX file in one."""
    described = read_onnx_description(path)
    if described is None:
        return None
    folder = path if path.is_dir() else path.parent
    files = sorted(file for file in folder.iterdir() if file.is_file())
    sizes = {f"bytes of {file.name}": file.stat().st_size for file in files}
    return dict(described), {"onnx": str(path), **sizes, **described}


def _flattened(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{name}.")
        elif isinstance(value, list) and prefix == "":
            yield name, ", ".join(map(str, value)) or "none"
        else:
            yield prefix + name, value
