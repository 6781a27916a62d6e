"""Tar files as WebDataset makes them: `0001.jpg` and `0001.txt`, or `0001.json`, side by side.

A sample is all files of one path up to the first dot of their name. A `.txt` is its text; else the
`.json`'s `text` or `caption`, a string or a list.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import DatasetError
from . import shards
from .folder import TEXT_KEYS, usable_texts, value_of
from .ids import Id
from .problems import Problems
from .shards import Index, IndexedData
from .stores import ImageStore, Slices

SUFFIX = ".tar"
IMAGES = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp"})
_TEXTS = frozenset({"txt", "json"})
_MAX_TEXT = 1 << 20
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)
_COMPRESSED = re.compile(r"\.(tar\.\w+|tgz|tbz2?|txz)$", re.IGNORECASE)
# What gzip, bzip2, xz and zstd begin their files with.
_MAGIC = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_BLOCK = 512


def splits(place: Path) -> list[str]:
    """The splits that lie here in this layout; an empty name for what is not split.

    Raises:
        DatasetError: there are none, but compressed tar files, or not all that a pattern names.
    """
    found = list(shards.splits(place, SUFFIX))
    if not found and place.is_dir():
        refuse_compressed(*sorted(place.glob("*.t*")))
    return found


def refuse_compressed(*paths: Path) -> None:
    """See that none of the paths is a compressed tar file.

    Raises:
        DatasetError: one is.
    """
    for path in paths:
        if _COMPRESSED.search(path.name):
            raise _compressed(path)


def _compressed(path: Path) -> DatasetError:
    return DatasetError(
        f"{path}: compressed, so that single images cannot be read; unpack it to a .tar"
    )


@dataclass
class _Sample:
    """What was found of one: the image's offset and size, the texts' bytes."""

    image: tuple[int, int] | None = None
    txt: bytes | None = None
    json: bytes | None = None


class TarData(IndexedData):
    """A split in this layout."""

    suffix = SUFFIX

    def _read_index(self, problems: Problems) -> Index:
        ids: list[Id] = []
        file_of, starts, lengths = array("i"), array("q"), array("q")
        texts: list[str] = []
        image_of = array("q")
        for number, name in enumerate(self._names):
            for key, sample in _samples(self._files[number], name, problems).items():
                where = f"{name}:{key}"
                some = list(_texts_of(sample, key, where, problems))
                if sample.image is None:
                    problems.add(where, f"no image beside the text: {key}.jpg or the like")
                    continue
                image_of.extend([len(ids)] * len(some))
                texts += some
                # Files may each count their samples from 0.
                ids.append(key if len(self._files) == 1 else where)
                file_of.append(number)
                starts.append(sample.image[0])
                lengths.append(sample.image[1])
        slices = Slices(
            self._files,
            np.frombuffer(starts, np.int64),
            np.frombuffer(lengths, np.int64),
            np.frombuffer(file_of, np.int32),
        )
        images = _TarImages(ids, self._names, slices)
        return Index(images, texts, np.frombuffer(image_of, np.int64))


class _TarImages(ImageStore):
    def __init__(self, ids: list[Id], names: list[str], slices: Slices) -> None:
        self.ids = ids
        self._names, self._slices = names, slices

    def content(self, image: int) -> bytes:
        """The image file's bytes."""
        return self._slices.read(image)

    def where(self, image: int) -> str:
        """The tar file and the sample."""
        if len(self._names) > 1:
            return str(self.ids[image])
        return f"{self._names[0]}:{self.ids[image]}"

    def reader(self, image: int) -> Callable[[], bytes]:
        """A function that gives the image file's bytes."""
        return partial(self._slices.alone(image).read, 0)

    def files(self) -> Iterable[Path]:
        """The tar files."""
        return self._slices.files


def _samples(path: Path, name: str, problems: Problems) -> dict[str, _Sample]:
    """The samples of a tar file, those that lack something included."""
    samples: dict[str, _Sample] = {}
    end = 0
    try:
        with path.open("rb") as file:
            if file.read(6).startswith(_MAGIC):
                raise _compressed(path)
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                # tarfile would keep every member in memory.
                while (member := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]
                    end = tar.offset
                    _take(member, file.fileno(), name, samples, problems)
                end = tar.offset
            # tarfile takes a damaged header for the end.
            if os.pread(file.fileno(), _BLOCK, end).strip(b"\0"):
                problems.add(name, f"damaged at byte {end}: what lies behind is left out")
    except (tarfile.TarError, OSError) as error:
        problems.add(name, f"damaged at byte {end}: {error}")
    return samples


def _take(
    member: tarfile.TarInfo,
    descriptor: int,
    name: str,
    samples: dict[str, _Sample],
    problems: Problems,
) -> None:
    parts = _NAME.fullmatch(member.name)
    if parts is None or not member.isreg() or member.issparse():
        return
    key, kind = parts[1], parts[2].lower()
    last = kind.rpartition(".")[2]
    if last not in IMAGES and last not in _TEXTS:
        return
    sample = samples.setdefault(key, _Sample())
    where = f"{name}:{member.name}"
    if kind in IMAGES:
        if sample.image is not None:
            problems.add(where, f"{key} has another image already")
            return
        sample.image = (member.offset_data, member.size)
    elif kind in _TEXTS:
        if member.size > _MAX_TEXT:
            problems.add(where, f"a text of {member.size} bytes")
            return
        if getattr(sample, kind) is not None:
            problems.add(where, f"{key} has another .{kind} already")
            return
        content = os.pread(descriptor, member.size, member.offset_data)
        if len(content) < member.size:
            problems.add(where, "the file ends in the middle of it")
            return
        setattr(sample, kind, content)


def _texts_of(sample: _Sample, key: str, where: str, problems: Problems) -> Iterator[str]:
    try:
        if sample.txt is not None:
            yield from usable_texts(sample.txt.decode("utf-8-sig").strip(), key, where, problems)
        elif sample.json is not None:
            value = json.loads(sample.json.decode("utf-8-sig"))
            if not isinstance(value, dict):
                problems.add(where, f"expected a JSON object, found {type(value).__name__}")
                return
            yield from usable_texts(value_of(value, TEXT_KEYS), key, where, problems)
        elif sample.image is not None:
            problems.add(where, "no text beside the image: .txt or .json", skipped=False)
    except UnicodeDecodeError as error:
        problems.add(where, f"the text is not UTF-8: byte {error.start + 1}")
    except (ValueError, RecursionError) as error:
        problems.add(where, f"not JSON: {str(error)[:200]}")
