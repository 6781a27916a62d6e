"""Names what a file is that was downloaded or saved as a checkpoint, but is something else."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from .._files import ZIP_ERRORS, open_file, open_zip_file
from .._text import first_line, type_and_line
from ..errors import CheckpointError

# The start of the zips that torch writes; older versions wrote several pickles in a row.
ZIP_MAGIC = b"PK\x03\x04"
_PICKLE = b"\x80"
_HEAD = 512
_AGAIN = "download it again; its link may need a login"
_OTHER = "damaged, or something else: neither torch.save nor safetensors wrote it"
_TEXTS = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: run `git lfs pull` in "
    "its folder, or download the file",
    b"<!doctype": f"a web page, not a checkpoint: {_AGAIN}",
    b"<html": f"a web page, not a checkpoint: {_AGAIN}",
    b"<?xml": f"XML, such as a server's error, not a checkpoint: {_AGAIN}",
    b"{": f"JSON, such as a server's error, not a checkpoint: {_AGAIN}",
}
_MAGICS = {
    b"\x1f\x8b": "compressed with gzip; unpack it first",
    b"BZh": "compressed with bzip2; unpack it first",
    b"\xfd7zXZ": "compressed with xz; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"Rar!": "a RAR archive; unpack it first",
    b"\x89HDF": "an HDF5 file, such as TensorFlow's weights; expected torch's",
    b"GGUF": "a GGUF file; expected torch's weights",
    b"\x93NUMPY": "a NumPy array; expected torch's weights",
}
ONNX = (
    "ONNX, which cnclip writes and does not open: open the model that it was made from, or run it "
    "with another runtime"
)
_TAR = (257, b"ustar")


def check_kind(path: Path, *, weights: bool = False) -> None:
    """Refuse a file whose first bytes show that it is no part of a checkpoint.

    Args:
        path: The file.
        weights: Whether tensors are expected, and neither JSON nor an empty file.

    Raises:
        CheckpointError: it is something else; says what, and what to do.
        OSError: it cannot be read.
    """
    head = _head(path)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    found = f"damaged: an empty file; {_AGAIN}" if weights and not head else None
    for magic, kind in _TEXTS.items():
        if start.startswith(magic) and (weights or magic != b"{"):
            found = kind
    for magic, kind in _MAGICS.items():
        if head.startswith(magic):
            found = kind
    known = head.startswith((ZIP_MAGIC, _PICKLE)) or head[8:9] == b"{"  # the latter: safetensors
    if weights and found is None and not known:
        zeros = not head.strip(b"\0")
        found = f"nothing but zeros: {_AGAIN}" if zeros else f"{_OTHER}: {_AGAIN}"
    if head[_TAR[0] :].startswith(_TAR[1]):
        found = "a tar file; unpack it first"
    if _is_onnx(head):
        found = ONNX
    if found is not None:
        raise CheckpointError(found, file=path)


def _is_onnx(head: bytes) -> bool:
    """Whether a file begins as ONNX's protocol buffers do.

    That is the version of the format, and the tag of a later field. There is no magic number, so
    that safetensors, which begin with a length and a brace, may have the same first bytes.
    """
    tags = {number << 3 | 2 for number in (2, 3, 4, 6, 7, 8)} | {5 << 3}
    if len(head) < 8:
        return False
    is_tagged = head[:1] == b"\x08" and 0 < head[1] < 32 and head[2] in tags
    return is_tagged and head[8:9] != b"{"


def _head(path: Path) -> bytes:
    with open_file(path) as file:
        return file.read(_HEAD)


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors does: the size of a JSON object, and the object."""
    head = _head(path)
    size = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and 2 <= size <= os.path.getsize(path) - 8


def check_zip(path: Path) -> None:
    """Refuse a zip that torch did not write, or with parts that claim more bytes than it has."""
    if not _head(path).startswith(ZIP_MAGIC):
        return
    try:
        with open_zip_file(path) as parts:
            entries = parts.infolist()
    except OSError as error:
        raise CheckpointError(f"cannot be read: {first_line(error)}", file=path) from error
    except ZIP_ERRORS as error:
        raise CheckpointError(
            f"damaged, or not downloaded to its end: {type_and_line(error)}", file=path
        ) from error
    if not any(entry.filename.endswith("/data.pkl") for entry in entries):
        raise CheckpointError(
            "a zip that torch.save did not write; unpack it, and pass the checkpoint in it",
            file=path,
        )
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise CheckpointError(
                f"damaged: {entry.filename!r:.80} is compressed, unlike torch's files", file=path
            )
    claimed = sum(entry.file_size for entry in entries)
    if claimed > path.stat().st_size:
        raise CheckpointError(f"damaged: its parts claim {claimed} bytes", file=path)
