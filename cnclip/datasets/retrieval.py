"""Images and the texts that describe them: what every reader of a layout answers."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..errors import ImageError
from ..preprocessors.image import load_image
from .ids import Id
from .problems import Problems
from .stores import ImageStore


@dataclass(frozen=True)
class TextRow:
    """A text.

    Attributes:
        text_id: Its id.
        text: The text.
        image_ids: The images that it describes; none where that is not told, as in test sets
            whose answers are kept back.
        where: Its file and line, for messages.
    """

    text_id: Id
    text: str
    image_ids: tuple[Id, ...]
    where: str = ""


@dataclass(frozen=True)
class ImageRow:
    """An image that has not been decoded yet.

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
        turns_images: Whether images are turned as their EXIF orientation says. Those of
            Chinese-CLIP's own layouts are not, as in its evaluation.
    """

    turns_images = False

    def __init__(self, name: str, split: str) -> None:
        self.name = name
        self.split = split

    @abstractmethod
    def texts(self, problems: Problems) -> Iterator[TextRow]:
        """The texts that can be used, with ids of their own."""

    @abstractmethod
    def images(self, problems: Problems) -> Iterator[ImageRow]:
        """The images that can be used, with ids of their own; each is read when it is due."""

    @abstractmethod
    def locate(self, problems: Problems) -> ImageStore:
        """The images that can be used, to be read in any order.

        Raises:
            DatasetError: the layout, as it is stored here, can only be read from front to back.
        """

    @abstractmethod
    def files(self) -> list[Path]:
        """The files behind it: when none of them changes, nor do its images and texts."""

    def count_images(self) -> int | None:
        """How many images there are, if that is known before they are read."""
        return None


def with_known(text: TextRow, known: Container[Id], problems: Problems) -> TextRow | None:
    """The text with the images that there are; None if all that it names are missing."""
    unknown = [image_id for image_id in text.image_ids if image_id not in known]
    if not unknown:
        return text
    left = tuple(image_id for image_id in text.image_ids if image_id in known)
    shown = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
    problems.add(
        text.where,
        f"text {text.text_id} names images that are not there: {shown}",
        skipped=not left,
    )
    return TextRow(text.text_id, text.text, left, text.where) if left else None


def open_image(row: ImageRow, *, turned: bool) -> Image.Image:
    """Decode an image.

    Raises:
        ImageError: it cannot be read.
    """
    if turned:
        return load_image(row.content)
    try:
        file = io.BytesIO(row.content) if isinstance(row.content, bytes) else row.content
        image = Image.open(file)
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever a damaged file leads them to
        what = "of no format that Pillow knows" if "identify" in str(error) else error
        raise ImageError(f"cannot be read as an image: {what}") from error
    return image
