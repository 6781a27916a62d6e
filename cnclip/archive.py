"""Reads the metadata and vocabulary of an archive, `NAME.cnclip.pt`, without running its code.

An archive is a TorchScript file, which is a zip. `extra/cnclip.json` in it has sizes and origin,
`extra/vocab.txt` is the vocabulary. Loading the model itself runs the archive's code: load only
archives whose origin you trust. This module needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ._files import ZIP_ERRORS, open_zip_file
from ._text import first_line, printable, type_and_line
from .errors import ArchiveError

FORMAT_VERSION = 3
METADATA = "cnclip.json"
VOCABULARY = "vocab.txt"
SUFFIX = ".cnclip.pt"
# Names of files that cn_clip and others save with torch end in these.
CHECKPOINT_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
# Pixels per side; the core's preprocessing supports no more.
MAX_RESOLUTION = 4096

# Bounds on what is read from a file that may be hostile; the published vocabulary has 110 kB.
MAX_VOCABULARY = 64 << 20
_MAX_BYTES = {METADATA: 1 << 20, VOCABULARY: MAX_VOCABULARY}
# Bytes of the unpacked code, the only parts that libtorch compresses.
_MAX_CODE = 64 << 20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# The bit of a zip's external attributes that marks a directory.
_DIRECTORY = 0x10
# Bounds on numbers, with which the core computes in float32.
MEANS = (-1e6, 1e6)
DEVIATIONS = (1e-6, 1e6)
TEMPERATURES = (1e-30, 1e30)


@dataclass(frozen=True)
class ArchiveInfo:
    """An archive's metadata.

    Attributes:
        path: The archive.
        embed_dim: Columns of its embeddings.
        resolution: Pixels per side of its images.
        context_length: Columns of its token ids.
        temperature: The divisor of similarities before a softmax.
        mean: Mean of red, green and blue in the normalisation of pixels scaled to 0..1.
        std: Standard deviation of red, green and blue in the normalisation.
        vocabulary: The vocab.txt's bytes.
        metadata: The whole of `cnclip.json`.
    """

    path: Path
    embed_dim: int
    resolution: int
    context_length: int
    temperature: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    vocabulary: bytes = field(repr=False)
    metadata: dict[str, Any] = field(repr=False)

    @property
    def normalizes_texts(self) -> bool:
        """Whether the model's description says that it was trained on normalised texts.

        See `cnclip.preprocessors.text.normalize_text`.
        """
        return self.metadata.get("normalized_texts") is True


def is_archive(path: Path) -> bool:
    """Whether a path is read as an archive. That includes damaged and unknown files.

    It excludes directories, and files that torch.save may have written: those with the suffix of a
    checkpoint that are not TorchScript.
    """
    # Unlike the methods of Path, these do not raise for a path that cannot be accessed.
    if os.path.isdir(path):
        return False
    is_suffix = path.suffix in CHECKPOINT_SUFFIXES and not path.name.endswith(SUFFIX)
    if not is_suffix or not os.path.isfile(path):  # reading a pipe or device may never end
        return True
    try:
        with zipfile.ZipFile(path) as file:
            # For TorchScript of other software, read_archive reports the missing parts.
            return any(name.endswith("/constants.pkl") for name in file.namelist())
    except (OSError, *ZIP_ERRORS):
        return False


def read_archive(path: Path) -> ArchiveInfo:
    """Read an archive's metadata and vocabulary.

    Raises:
        ArchiveError: unreadable, truncated, not an archive of ours, or of another format version.
    """
    with _opened(path) as file:
        text, vocabulary = _extra(path, file, METADATA), _extra(path, file, VOCABULARY)
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"its {METADATA} is damaged: {first_line(error)}", file=path) from error
    version = metadata.get("format") if isinstance(metadata, dict) else None
    if type(version) is not int or version != FORMAT_VERSION:
        raise ArchiveError(
            f"archive format {version!r:.100}, this cnclip reads format {FORMAT_VERSION}; "
            "convert the checkpoint again",
            file=path,
        )
    try:
        info = ArchiveInfo(
            path=path,
            embed_dim=_positive(metadata["embed_dim"]),
            resolution=_positive(metadata["image_resolution"]),
            context_length=_positive(metadata["context_length"], at_least=2),
            temperature=_number(metadata["temperature"], TEMPERATURES),
            mean=_three(metadata["mean"], MEANS),
            std=_three(metadata["std"], DEVIATIONS),
            vocabulary=vocabulary,
            metadata=metadata,
        )
        _check_sizes(info)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"its {METADATA} is damaged: {type_and_line(error)}"
        raise ArchiveError(reason, file=path) from error
    return info


def check_archive(path: Path) -> None:
    """Compare all parts of an archive with their checksums, which libtorch ignores.

    Raises:
        ArchiveError: a part was damaged after the archive was written; names the part.
    """
    with _opened(path) as file:
        damaged = file.testzip()
        for entry in file.infolist():
            # libtorch leaves the memory of a part uninitialised that is marked as a directory.
            if entry.external_attr & _DIRECTORY:
                damaged = damaged or entry.filename
    if damaged is not None:
        part = printable(damaged.partition("/")[2])
        raise ArchiveError(f"damaged: {part} is not what was written", file=path)


def content_digest(path: Path) -> str:
    """A digest of an archive's content: of the name, size and checksum of each part.

    Raises:
        ArchiveError: the file is not an archive, or cannot be read.
    """
    digest = hashlib.sha256()
    with _opened(path) as file:
        for entry in file.infolist():
            # TorchScript takes a part's folder from the name that the archive was written with.
            digest.update(f"{entry.filename}\0{entry.file_size}\0{entry.CRC}\n".encode())
    return digest.hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive as a zip; errors of reading it are raised as ArchiveError."""
    if not os.path.isfile(path):
        raise ArchiveError("expected a file or a model directory", file=path)
    try:
        with open_zip_file(path) as file:
            if not all(entry.compress_type in _METHODS for entry in file.infolist()):
                raise ArchiveError("damaged: a part is compressed in another way", file=path)
            claimed = sum(entry.file_size for entry in file.infolist())
            if claimed > path.stat().st_size + _MAX_CODE:
                raise ArchiveError(f"damaged: its parts claim {claimed} bytes", file=path)
            yield file
    except ArchiveError:
        raise
    except OSError as error:
        raise ArchiveError(f"cannot be read: {first_line(error)}", file=path) from error
    except ZIP_ERRORS as error:
        raise ArchiveError(
            f"truncated, damaged, or not a TorchScript archive: {first_line(error)}", file=path
        ) from error


def _extra(path: Path, file: zipfile.ZipFile, name: str) -> bytes:
    """The content of an extra file, which TorchScript stores as `<archive's name>/extra/NAME`."""
    for entry in file.infolist():
        if entry.filename.endswith(f"/extra/{name}") and entry.filename.count("/") == 2:
            break
    else:
        raise ArchiveError(f"not an archive of cnclip: it holds no extra file {name}", file=path)
    if entry.file_size > _MAX_BYTES[name]:
        raise ArchiveError(f"{name} claims {entry.file_size} bytes, too many to be true", file=path)
    return file.read(entry)


def _check_sizes(info: ArchiveInfo) -> None:
    """Compare sizes that are stored twice, for the core and for the towers, and check bounds."""
    towers = info.metadata["architecture"]
    if info.embed_dim != towers["embed_dim"] or info.resolution != towers["vision"]["resolution"]:
        raise ValueError("sizes that are not its architecture's")
    if info.context_length > towers["text"]["max_positions"]:
        raise ValueError("a context_length beyond its positions")
    if info.resolution > MAX_RESOLUTION:
        raise ValueError(f"an image_resolution beyond {MAX_RESOLUTION}")


def _positive(value: Any, at_least: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not at_least <= value < 2**24:
        raise ValueError(value)
    return value


def _number(value: Any, bounds: tuple[float, float]) -> float:
    if type(value) not in (int, float) or not bounds[0] <= value <= bounds[1]:
        raise ValueError(value)
    return float(value)


def _three(values: Any, bounds: tuple[float, float]) -> tuple[float, float, float]:
    red, green, blue = (_number(value, bounds) for value in values)
    return red, green, blue
