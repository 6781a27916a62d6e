"""`Hit`: one result of a search."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from ..bulk.lookup import holds_many, open_recorded, read_recorded
from ..errors import ImageError


@dataclass(frozen=True)
class Hit:
    """One result of a search.

    Attributes:
        path: The file or URL of an image; for a text, the file that contains it.
        score: The cosine similarity to the query, from -1 to 1.
        id: The id in the collection.
        text: The text; None for an image.
        probability: The softmax of the scores of one query's hits, divided by the model's
            temperature. None if the temperature is unknown.
    """

    path: str
    score: float
    id: str
    text: str | None = None
    probability: float | None = None

    @property
    def name(self) -> str:
        """The image's path, or its id if the path is an archive or table with many images."""
        return self.id if holds_many(self.path) else self.path

    def thumbnail(self, width: int, height: int) -> Image.Image | None:
        """The image, scaled down to at most `width` x `height` pixels.

        Returns:
            An image of mode RGB. None for a text, for an image on the network, which is not
            fetched, and for an image that cannot be read.
        """
        if not self.has_file:
            return None
        try:
            image = open_recorded(self.id, self.path)
        except ImageError:
            return None
        image.thumbnail((width, height))
        return image

    @property
    def has_file(self) -> bool:
        """Whether it is an image of this machine: not a text, and not an image on the network."""
        return self.text is None and not self.path.lower().startswith(("http:", "https:"))

    def content(self) -> bytes | None:
        """The image file as it is stored, in an archive or table too.

        Returns:
            None for a text, for an image on the network, which is not fetched, and for a file that
            cannot be read.
        """
        if not self.has_file:
            return None
        try:
            return read_recorded(self.id, self.path)
        except ImageError:
            return None
