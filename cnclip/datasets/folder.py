"""A folder of pictures with a JSON Lines file, as Hugging Face's imagefolder.

`metadata.jsonl` has a line for each picture, `{"file_name": "1.jpg", "text": "一只猫"}`; `text` may
be a list. A picture's id is its file name, a text's id its number.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DatasetError
from .lines import read_objects
from .problems import Problems
from .retrieval import PictureRow, RetrievalData, TextRow

METADATA = "metadata.jsonl"
PICTURE_KEYS = ("file_name", "image", "path", "file")
TEXT_KEYS = ("text", "texts", "caption", "captions", "label")


def splits(place: Path) -> list[str]:
    """The splits that lie here in this layout; an empty name for a folder that is not split."""
    if not place.is_dir():
        return []
    if _metadata(place) is not None:
        return [""]
    return sorted(path.parent.name for path in place.glob(f"*/{METADATA}"))


def _metadata(folder: Path) -> Path | None:
    """A folder's JSON Lines file: of the usual name, or the only one."""
    if (folder / METADATA).is_file():
        return folder / METADATA
    files = list(folder.glob("*.jsonl"))
    return files[0] if len(files) == 1 else None


class FolderData(RetrievalData):
    """A split in this layout."""

    turns_pictures = True

    def __init__(self, place: Path, name: str, split: str) -> None:
        super().__init__(name, split or "all")
        metadata = _metadata(place) or _metadata(place / split)
        assert metadata is not None  # `splits` saw it
        self._metadata = metadata

    def texts(self, problems: Problems) -> Iterator[TextRow]:
        """The texts, numbered."""
        number = 0
        for where, picture, value in self._rows(problems):
            texts = next((value[key] for key in TEXT_KEYS if key in value), None)
            for text in texts if isinstance(texts, list) else [texts]:
                if not isinstance(text, str):
                    problems.add(where, f"text: expected a string, found {text!r:.60}")
                elif not text.strip():
                    problems.add(where, f"the text of {picture} is empty")
                else:
                    yield TextRow(number, text, (picture,), where)
                    number += 1

    def pictures(self, problems: Problems) -> Iterator[PictureRow]:
        """The pictures that a line names and that are there, each once."""
        seen: set[str] = set()
        for where, picture, _ in self._rows(problems):
            if picture in seen:
                continue
            seen.add(picture)
            path = self._metadata.parent / picture
            if not path.is_file():
                problems.add(where, f"there is no picture {picture}")
                continue
            yield PictureRow(picture, path, where)

    def files(self) -> list[Path]:
        """The JSON Lines file and the pictures."""
        return [
            self._metadata,
            *(row.content for row in self.pictures(Problems()) if isinstance(row.content, Path)),
        ]

    def _rows(self, problems: Problems) -> Iterator[tuple[str, str, dict[str, Any]]]:
        try:
            with self._metadata.open("rb") as file:
                for where, value in read_objects(file, self._metadata.name, problems):
                    name = next((value[key] for key in PICTURE_KEYS if key in value), None)
                    if not isinstance(name, str) or not name or "\0" in name:
                        problems.add(
                            where, f"file_name: expected a file's name, found {name!r:.60}"
                        )
                    elif Path(name).is_absolute() or ".." in Path(name).parts:
                        problems.add(where, f"file_name: {name!r:.60} leads out of the folder")
                    else:
                        yield where, name, value
        except OSError as error:
            raise DatasetError(f"{self._metadata}: cannot be read: {error}") from error
