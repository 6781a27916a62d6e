"""Reads what stands beside the model in an archive, `NAME.cnclip.pt`, without running any of it.

An archive is a TorchScript file, which is a zip; `extra/cnclip.json` in it tells sizes and origin,
`extra/vocab.txt` is the vocabulary. Loading the model itself runs the archive's code: load only
archives whose origin you trust. This file needs no torch.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ArchiveError

FORMAT_VERSION = 1
METADATA = "cnclip.json"
VOCABULARY = "vocab.txt"
SUFFIX = ".cnclip.pt"

# Bounds on what is read from a file that may be hostile; the published vocabulary has 110 kB.
_LARGEST = {METADATA: 1 << 20, VOCABULARY: 64 << 20}


@dataclass(frozen=True)
class ArchiveInfo:
    """An archive's metadata.

    Attributes:
        path: The archive.
        embed_dim: Columns of its embeddings.
        resolution: Pixels a side of its pictures.
        context_length: Columns of its token ids.
        temperature: What similarities are divided by before a softmax.
        mean: Means of the normalisation, red, green, blue, of pixels scaled to 0..1.
        std: Standard deviations of the normalisation.
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
    vocabulary: bytes
    metadata: dict[str, Any]


def is_archive(path: Path) -> bool:
    """Whether a file looks like a zip with our metadata in it."""
    try:
        with zipfile.ZipFile(path) as file:
            return _find(file, METADATA) is not None
    except (zipfile.BadZipFile, OSError):
        return False


def read_archive(path: Path) -> ArchiveInfo:
    """Read an archive's metadata and vocabulary.

    Raises:
        ArchiveError: truncated, not an archive of ours, or of another format version.
        OSError: the file cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as file:
            text, vocabulary = _extra(path, file, METADATA), _extra(path, file, VOCABULARY)
    except zipfile.BadZipFile as error:
        raise ArchiveError(
            f"{path}: truncated, or not a TorchScript archive: {str(error) or 'no zip'}"
        ) from error
    try:
        metadata = json.loads(text)
    except ValueError as error:
        raise ArchiveError(f"{path}: its {METADATA} is damaged: {error}") from error
    version = metadata.get("format") if isinstance(metadata, dict) else None
    if version != FORMAT_VERSION:
        raise ArchiveError(
            f"{path}: archive format {version!r}, this cnclip reads format {FORMAT_VERSION}; "
            "convert the checkpoint again"
        )
    try:
        return ArchiveInfo(
            path=path,
            embed_dim=_positive(metadata["embed_dim"]),
            resolution=_positive(metadata["image_resolution"]),
            context_length=_positive(metadata["context_length"]),
            temperature=float(metadata["temperature"]),
            mean=_three(metadata["mean"]),
            std=_three(metadata["std"]),
            vocabulary=vocabulary,
            metadata=metadata,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArchiveError(f"{path}: its {METADATA} is damaged: {error!r}") from error


def _find(file: zipfile.ZipFile, name: str) -> zipfile.ZipInfo | None:
    """The entry of an extra file: TorchScript puts them under `<archive's name>/extra/`."""
    ending = f"/extra/{name}"
    found = (entry for entry in file.infolist() if entry.filename.endswith(ending))
    return next((entry for entry in found if entry.filename.count("/") == 2), None)


def _extra(path: Path, file: zipfile.ZipFile, name: str) -> bytes:
    entry = _find(file, name)
    if entry is None:
        raise ArchiveError(f"{path}: not an archive of cnclip: it holds no extra file {name}")
    if entry.file_size > _LARGEST[name]:
        raise ArchiveError(f"{path}: {name} claims {entry.file_size} bytes, too many to be true")
    try:
        return file.read(entry)
    except (NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise ArchiveError(f"{path}: {name} cannot be read: {error}") from error


def _positive(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**24:
        raise ValueError(value)
    return value


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
