"""Images with classes: a folder for each class, or a list of images with their classes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .._encoding import read_text
from .._files import open_file, why_not_a_file
from .._text import first_line, hide_secrets, value_text
from ..errors import DatasetError, ImageError, Where
from ..preprocessors.image import located
from ..sources.exclusions import Exclusions
from ..sources.image_names import ImageNames
from ..sources.images import ImageRef, walk
from ..sources.names import find_name
from ..sources.rows import ProblemKind, Problems
from ..sources.tables import TextFormat, checked_encoding, open_text, read_lines
from ..sources.zip_files import ZipImages
from .retrieval import ImageRow

CHINESE_LABELS = "label_cn.txt"
_MAX_DIGITS = 18  # of the number of a class


@dataclass(frozen=True)
class ClassifiedImage:
    """An image of a known class."""

    row: ImageRow  # its id is its path in the data set
    label: int  # the index of the class


class ClassificationData:
    """Images with classes.

    Attributes:
        name: The data set's name.
        keys: The names of the classes' folders, in the order of the classes' indices. Empty for a
            list, which numbers them.
        chinese: The Chinese names in `label_cn.txt`, one per class; empty if there is none.
    """

    def __init__(
        self, path: str | Path, split: str | None = None, encoding: str | None = None
    ) -> None:
        """Open a data set.

        Args:
            path: A folder with a folder of images for each class; in ELEVATER's layout that is
                `test/000`, with the Chinese names in `label_cn.txt`. Or a text file with an
                image's path or URL, white space and its class's number or name on each line, paths
                relative to the file's folder; an image in a zip is `FILE.zip@MEMBER`.
            split: A folder in it, such as `test`.
            encoding: As for `open_retrieval`.

        Raises:
            DatasetError: there is no such data set, or it has no classes.
            InvalidInputError: the encoding is unknown.
        """
        self._encoding = checked_encoding(encoding)
        place = Path(path).expanduser()
        self._list = place if place.is_file() else None
        if not place.exists():
            raise DatasetError("no such data set", file=path)
        if not place.is_dir() and (reason := why_not_a_file(place)) is not None:
            raise DatasetError(reason, file=path)
        self.name = Path(os.path.abspath(place)).name
        self.keys: list[str] = []
        self._remark: str | None = None
        self.chinese = self._read_names(place.parent if self._list else place)
        if self._list is not None:
            return
        folder = place / split if split else place
        if not folder.is_dir():
            raise DatasetError(f"has no folder {split!r}", file=path)
        self._folder = folder
        exclusions = Exclusions()
        names = (entry.name for entry in folder.iterdir() if entry.is_dir())
        self.keys = sorted(name for name in names if not exclusions.exclude(name, is_folder=True))
        if not self.keys:
            raise DatasetError("has no folders, one for each class", file=folder)
        splits = {"train", "test", "val", "valid", "validation"}
        if split is None and set(self.keys) <= splits:
            raise DatasetError(f"has the splits {', '.join(self.keys)}: choose one", file=path)
        if split:
            self.name = f"{self.name}, {split}"

    def _read_names(self, folder: Path) -> list[str]:
        try:
            text, found = read_text(folder / CHINESE_LABELS, self._encoding)
        except FileNotFoundError:
            return []
        except (OSError, UnicodeError) as error:
            reason = f"cannot be read: {first_line(error)}"
            raise DatasetError(reason, file=folder / CHINESE_LABELS) from error
        self._remark = found.remark
        return [line.strip() for line in text.splitlines() if line.strip()]

    def images(self, keys: list[str], problems: Problems) -> Iterator[ClassifiedImage]:
        """The images of the classes, whose names are in the order of their indices."""
        if self._remark is not None:
            where = Where(file=CHINESE_LABELS)
            problems.add(ProblemKind.ENCODING, where, self._remark, skipped=False)
        index_of = {key: index for index, key in enumerate(keys)}
        if self._list is not None:
            yield from self._listed(self._list, index_of, problems)
            return
        names = ImageNames()
        for key in self.keys:
            if key not in index_of:
                where = Where(file=str(self._folder / key))
                problems.add(ProblemKind.UNKNOWN_ID, where, "no class of this name")
                continue
            for file in walk(self._folder / key, names):
                shown = os.path.relpath(file.path, self._folder.absolute())
                if file.error is not None:
                    problems.add(ProblemKind.UNREADABLE_IMAGE, Where(file=shown), file.error)
                    continue
                row = ImageRow(shown, ImageRef(Path(file.path)), Where(file=shown))
                yield ClassifiedImage(row, index_of[key])
        names.report(problems, Where(file=self.name))

    def _listed(
        self, listing: Path, index_of: dict[str, int], problems: Problems
    ) -> Iterator[ClassifiedImage]:
        zips: dict[str, dict[str, ImageRef]] = {}
        try:
            with open_file(listing) as raw:
                file = open_text(raw, listing.name, problems, TextFormat(self._encoding))
                for line in read_lines(file, listing.name, problems):
                    where = Where(file=listing.name, line=line.number)
                    text = os.fsdecode(line.content).strip()
                    name, _, key = text.rpartition("\t" if "\t" in text else " ")
                    label = index_of.get(key)
                    # int() refuses numbers of thousands of digits.
                    is_number = key.isdecimal() and len(key) <= _MAX_DIGITS
                    if label is None and is_number and int(key) < len(index_of):
                        label = int(key)
                    name = name.strip()
                    if label is None or not name:
                        reason = f"expected an image and a class, found {value_text(key)}"
                        problems.add(ProblemKind.BAD_VALUE, where, reason)
                        continue
                    try:
                        image = _image(listing.parent, name, zips, self._encoding)
                    except (DatasetError, ImageError) as error:
                        reason = f"{hide_secrets(name)}: {error.reason}"
                        problems.add(ProblemKind.NO_IMAGE, where, reason)
                    else:
                        yield ClassifiedImage(ImageRow(hide_secrets(name), image, where), label)
        except OSError as error:
            raise DatasetError(f"cannot be read: {first_line(error)}", file=listing) from error


def _image(
    folder: Path, name: str, zips: dict[str, dict[str, ImageRef]], encoding: str | None
) -> ImageRef:
    """The image that a list names.

    Raises:
        DatasetError: it names a zip that cannot be read, or lacks the image.
        ImageError: it is a malformed URL.
    """
    archive, at, member = name.partition(".zip@")
    if not at:
        return ImageRef(located(name, folder))
    if archive not in zips:
        # An image in a format that is off is an error that says so, once it is read.
        names = ImageNames(formats="all")
        store = ZipImages.of(folder / f"{archive}.zip", f"{archive}.zip", encoding, names)
        zips[archive] = {str(id): ImageRef(store, n) for n, id in enumerate(store.ids)}
    image = find_name(zips[archive], member)
    if image is None:
        raise DatasetError("the zip has no such image")
    return image
