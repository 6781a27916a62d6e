"""Images with classes: a folder for each class, or a list of images with their classes."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import DatasetError
from .lines import read_lines
from .problems import Problems
from .retrieval import ImageRow

CHINESE_LABELS = "label_cn.txt"
SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tga"}
    | {".tif", ".tiff", ".webp"}
)


@dataclass(frozen=True)
class ClassifiedImage:
    """An image of a known class.

    Attributes:
        row: The image; its id is the path as the data set has it.
        label: The index of its class.
    """

    row: ImageRow
    label: int


class ClassificationData:
    """Images with classes.

    Attributes:
        name: The data set's name.
        keys: What the data set calls its classes, in the order of their indices: folders' names.
            Empty for a list that numbers them.
        chinese: Chinese names that lie beside it, one a class; empty where there are none.
    """

    def __init__(self, path: str | Path, split: str | None = None) -> None:
        """Look at a data set.

        Args:
            path: A folder with a folder of images for each class; in ELEVATER's layout that is
                `test/000`, with the Chinese names in `label_cn.txt`. Or a text file with a
                image's path, white space and its class's number or name on each line, paths
                relative to the file's folder; an image in a zip is `FILE.zip@MEMBER`.
            split: A folder in it, such as `test`.

        Raises:
            DatasetError: there is no such data set, or it has no classes.
        """
        place = Path(path).expanduser()
        self._list = place if place.is_file() else None
        if not place.exists():
            raise DatasetError(f"{path}: no such data set")
        self.name = Path(os.path.abspath(place)).name
        self.keys: list[str] = []
        self.chinese = _read_names(place.parent if self._list else place)
        if self._list is not None:
            return
        folder = place / split if split else place
        if not folder.is_dir():
            raise DatasetError(f"{path}: has no folder {split!r}")
        self._folder = folder
        self.keys = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
        if not self.keys:
            raise DatasetError(f"{folder}: has no folders, one for each class")
        splits = {"train", "test", "val", "valid", "validation"}
        if split is None and set(self.keys) <= splits:
            raise DatasetError(f"{path}: has the splits {', '.join(self.keys)}: choose one")
        if split:
            self.name = f"{self.name}, {split}"

    def images(self, keys: list[str], problems: Problems) -> Iterator[ClassifiedImage]:
        """The images.

        Args:
            keys: What the classes are called, in the order of their indices.
            problems: Gets what cannot be used.
        """
        index_of = {key: index for index, key in enumerate(keys)}
        if self._list is not None:
            yield from self._listed(self._list, index_of, problems)
            return
        for key in self.keys:
            if key not in index_of:
                problems.add(str(self._folder / key), "no class of this name")
                continue
            for path in sorted((self._folder / key).rglob("*")):
                if path.suffix.lower() in SUFFIXES and path.is_file():
                    shown = path.relative_to(self._folder).as_posix()
                    yield ClassifiedImage(ImageRow(shown, path, shown), index_of[key])

    def _listed(
        self, listing: Path, index_of: dict[str, int], problems: Problems
    ) -> Iterator[ClassifiedImage]:
        archives: dict[Path, zipfile.ZipFile] = {}
        try:
            with listing.open("rb") as file:
                for where, line, _, _ in read_lines(file, listing.name, problems):
                    name, _, key = line.decode("utf-8", "replace").strip().rpartition(" ")
                    if "\t" in key or not name:
                        name, _, key = line.decode("utf-8", "replace").strip().rpartition("\t")
                    label = index_of.get(key)
                    if label is None and key.isdecimal() and int(key) < len(index_of):
                        label = int(key)
                    name = name.strip()
                    if label is None or not name:
                        problems.add(where, f"expected an image and a class, found {key!r:.60}")
                        continue
                    content = _content(listing.parent, name, archives, where, problems)
                    if content is not None:
                        yield ClassifiedImage(ImageRow(name, content, where), label)
        except OSError as error:
            raise DatasetError(f"{listing}: cannot be read: {error}") from error
        finally:
            for archive in archives.values():
                archive.close()


def _content(
    folder: Path, name: str, archives: dict[Path, zipfile.ZipFile], where: str, problems: Problems
) -> bytes | Path | None:
    archive_name, _, member = name.partition("@")
    if not member:
        return folder / name
    path = folder / archive_name
    try:
        if path not in archives:
            archives[path] = zipfile.ZipFile(path)
        return archives[path].read(member)
    except (OSError, KeyError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        problems.add(where, f"{name}: {error}")
        return None


def _read_names(folder: Path) -> list[str]:
    try:
        text = (folder / CHINESE_LABELS).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{folder / CHINESE_LABELS}: cannot be read: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
