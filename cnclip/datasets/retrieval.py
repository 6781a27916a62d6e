"""Pictures and the texts that describe them: what every reader of a layout answers."""

from __future__ import annotations

import io
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..errors import DatasetError, ImageError
from ..preprocessors.image import load_image
from .ids import Id
from .problems import Problems


@dataclass(frozen=True)
class TextRow:
    """A text.

    Attributes:
        text_id: Its id.
        text: The text.
        image_ids: The pictures that it describes; none where that is not told, as in test sets
            whose answers are kept back.
        where: Its file and line, for messages.
    """

    text_id: Id
    text: str
    image_ids: tuple[Id, ...]
    where: str = ""


@dataclass(frozen=True)
class PictureRow:
    """A picture that has not been decoded yet.

    Attributes:
        image_id: Its id.
        content: A file's bytes, or its path.
        where: Its file and line, for messages.
    """

    image_id: Id
    content: bytes | Path
    where: str = ""


class RetrievalData(ABC):
    """One split of a data set.

    Attributes:
        name: The data set's name, that of its folder or file.
        split: The split's name.
        turns_pictures: Whether pictures are turned as their EXIF orientation says. Those of
            Chinese-CLIP's own layouts are not, as in its evaluation.
    """

    turns_pictures = False

    def __init__(self, name: str, split: str) -> None:
        self.name = name
        self.split = split

    @abstractmethod
    def texts(self, problems: Problems) -> Iterator[TextRow]:
        """The texts that can be used, with ids of their own."""

    @abstractmethod
    def pictures(self, problems: Problems) -> Iterator[PictureRow]:
        """The pictures that can be used, with ids of their own; each is read when it is due."""

    @abstractmethod
    def files(self) -> list[Path]:
        """The files behind it: when none of them changes, nor do its pictures and texts."""

    def count_pictures(self) -> int | None:
        """How many pictures there are, if that is known before they are read."""
        return None


def open_retrieval(path: str | Path, split: str | None = None) -> RetrievalData:
    """Open a split of a data set, in whatever layout it is.

    Args:
        path: A folder with Chinese-CLIP's `{split}_imgs.tsv` and `{split}_texts.jsonl`, or with the
            LMDB made from them, `lmdb/{split}/imgs`; a zip of the former, as the data sets are
            published; a folder of pictures with a JSON Lines file that has `file_name` and `text`
            (`metadata.jsonl`, as Hugging Face's imagefolder), in it or in `{split}/`; or
            `'emoji-cn'`, the pictures that ship.
        split: Its name; may be left out where there is but one.

    Raises:
        DatasetError: there is no such data set or split.
        MissingExtraError: lmdb is not installed.
    """
    from . import folder, lmdb_files, tsv

    place = _shipped(path) or Path(path).expanduser()
    if not place.exists():
        raise DatasetError(f"{path}: no such data set")
    name = "emoji-cn" if _shipped(path) else _name_of(place)
    found: dict[str, Callable[[Path, str, str], RetrievalData]] = {}
    for splits, reader in (
        (tsv.splits, tsv.TsvData),
        (lmdb_files.splits, lmdb_files.LmdbData),
        (folder.splits, folder.FolderData),
    ):
        if not found:
            found = dict.fromkeys(splits(place), reader)
    if not found:
        raise DatasetError(
            f"{path}: of no known layout: neither SPLIT_imgs.tsv with SPLIT_texts.jsonl (also in a "
            "zip), nor lmdb/SPLIT/imgs, nor pictures with a metadata.jsonl"
        )
    names = sorted(name for name in found if name)
    if split is None:
        if len(found) > 1:
            raise DatasetError(f"{path}: has the splits {', '.join(names)}: choose one")
        split = next(iter(found))
    if split in found:
        return found[split](place, name, split)
    if "" in found:  # a folder that is not split is what its owner calls it
        return found[""](place, name, split)
    raise DatasetError(f"{path}: has no split {split!r}; it has {', '.join(names)}")


def _shipped(path: str | Path) -> Path | None:
    """Where a data set lies that ships, if that is what is meant."""
    if str(path) != "emoji-cn":
        return None
    return Path(__file__).parents[1] / "demo" / "gallery"


def _name_of(place: Path) -> str:
    resolved = Path(os.path.abspath(place))
    if resolved.name == "lmdb":
        resolved = resolved.parent
    return re.sub(r"\.zip$", "", resolved.name, flags=re.IGNORECASE)


def open_picture(row: PictureRow, *, turned: bool) -> Image.Image:
    """Decode a picture.

    Raises:
        ImageError: it cannot be read.
    """
    if turned:
        return load_image(row.content)
    try:
        file = io.BytesIO(row.content) if isinstance(row.content, bytes) else row.content
        picture = Image.open(file)
        picture.load()
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever a damaged file leads them to
        what = "of no format that Pillow knows" if "identify" in str(error) else error
        raise ImageError(f"cannot be read as a picture: {what}") from error
    return picture
