"""The demo: images found by Chinese texts, with a small model, gallery and font that ship.

`emoji-cn/` is the model, `gallery/` its images with their names, `fonts/` what draws Chinese.
The functions here embed and match; `tables.py` and `contact_sheet.py` show. Uses `pipelines` only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..assets import asset_path

__all__ = [
    "EXAMPLE_EMOJI",
    "EXAMPLE_TEXTS",
    "QUERIES",
    "Embedder",
    "GalleryImage",
    "Match",
    "UnreadableImage",
    "embed_images",
    "embed_texts",
    "find_images",
    "find_matches",
    "load_gallery",
    "match_probabilities",
    "open_image",
]

QUERIES = ("猫", "汽车", "昆虫", "生日蛋糕", "水果", "树", "下雨", "大哭")
"""What the demo looks for when it is told nothing else."""

EXAMPLE_EMOJI = ("🍎", "🍏", "🍓", "🍅")
EXAMPLE_TEXTS = ("红苹果", "绿苹果", "草莓", "西红柿")
"""Images of the gallery and texts for the model card's example."""

SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tga"}
    | {".tif", ".tiff", ".webp"}
)
"""File names that `find_images` takes for images."""


class Embedder(Protocol):
    """The part of a pipeline that the demo uses."""

    def forward(self, input: dict[str, Any], /) -> dict[str, Any]:
        """Embed `{'img': [...]}` or `{'text': [...]}`; see `cnclip.pipelines`."""
        ...


@dataclass(frozen=True)
class GalleryImage:
    """An image file.

    Attributes:
        path: The file.
        label: What stands under it.
        emoji: The emoji that it shows; empty for images from elsewhere.
    """

    path: Path
    label: str
    emoji: str = ""


@dataclass(frozen=True)
class Match:
    """An image found for a text, with the cosine of the two embeddings."""

    image: GalleryImage
    score: float


@dataclass(frozen=True)
class UnreadableImage:
    """An image that was left out, and why."""

    image: GalleryImage
    reason: str


def load_gallery() -> list[GalleryImage]:
    """The images that ship, in the gallery's order."""
    folder = asset_path("gallery")
    lines = (folder / "gallery.jsonl").read_text(encoding="utf-8").splitlines()
    rows = map(json.loads, lines)
    return [GalleryImage(folder / row["file"], row["label"], row["emoji"]) for row in rows]


def find_images(folder: Path, leave_out: Iterable[Path] = ()) -> list[GalleryImage]:
    """GalleryImage files in `folder` and below, by name; hidden ones are left out.

    Args:
        folder: Where to look. A label is the path below it, without the suffix.
        leave_out: Files that are not wanted even if they lie there.

    Raises:
        NotADirectoryError: `folder` is none.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: no such folder")
    unwanted = {path.resolve() for path in leave_out}
    images = []
    for path in sorted(folder.rglob("*")):
        below = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in below.parts)
        if hidden or path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        if path.resolve() not in unwanted:
            images.append(GalleryImage(path, _printable(str(below.with_suffix("")))))
    return images


def open_image(path: Path) -> Image.Image:
    """An image as a person sees it: upright, RGB, on white where it is transparent.

    Raises:
        OSError: the file cannot be read or is no image; damaged ones raise other errors too.
    """
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            return Image.alpha_composite(white, image).convert("RGB")
        if image.mode.startswith("I;16"):
            # Pillow would clip 16 bits to 8 where a viewer scales them.
            return image.convert("I").point(lambda value: value * (1 / 257)).convert("RGB")
        return image.convert("RGB")


def embed_images(
    embedder: Embedder,
    images: Sequence[GalleryImage],
    *,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[GalleryImage], NDArray[np.float32], list[UnreadableImage]]:
    """Embed image files, a batch of them in memory at a time.

    Args:
        embedder: A pipeline.
        images: Of any number.
        batch_size: Images in memory at a time.
        progress: Called with the number of images done and of all, after each batch.

    Returns:
        The images that could be read, their embeddings float32 [n, d] of unit length in the same
        order, and the images that could not be read.
    """
    kept: list[GalleryImage] = []
    unreadable: list[UnreadableImage] = []
    batches: list[NDArray[np.float32]] = []
    for start in range(0, len(images), batch_size):
        opened = []
        for image in images[start : start + batch_size]:
            try:
                opened.append(open_image(image.path))
            except Exception as error:  # Pillow's readers raise anything on damaged files.
                unreadable.append(UnreadableImage(image, _reason(error)))
            else:
                kept.append(image)
        if opened:
            batches.append(embedder.forward({"img": opened})["img_embedding"])
        if progress is not None:
            progress(min(start + batch_size, len(images)), len(images))
    embeddings = np.concatenate(batches) if batches else np.empty((0, 0), np.float32)
    return kept, embeddings, unreadable


def embed_texts(embedder: Embedder, texts: Sequence[str]) -> NDArray[np.float32]:
    """Embeddings of `texts`: float32 [n, d], rows of unit length."""
    embeddings: NDArray[np.float32] = embedder.forward({"text": list(texts)})["text_embedding"]
    return embeddings


def match_probabilities(
    images: NDArray[np.float32], texts: NDArray[np.float32], temperature: float
) -> NDArray[np.float32]:
    """How likely each text is each image's, as the model card computes it.

    Args:
        images: float32 [n, d], rows of unit length.
        texts: float32 [m, d], rows of unit length.
        temperature: The model's.

    Returns:
        float32 [n, m]; a row, the softmax of `image / temperature @ texts.T`, sums to 1.
    """
    logits = (images / np.float32(temperature)) @ texts.T
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def find_matches(
    texts: NDArray[np.float32],
    images: Sequence[GalleryImage],
    embeddings: NDArray[np.float32],
    count: int,
) -> list[list[Match]]:
    """The `count` images of highest cosine for each text, best first.

    Args:
        texts: float32 [m, d], rows of unit length.
        images: n of them, those of `embeddings`.
        embeddings: float32 [n, d], rows of unit length.
        count: Fewer come back where there are fewer images.

    Returns:
        A list for each text. Images of equal score stand in their own order.
    """
    answers = []
    for scores in texts @ embeddings.T:
        best = np.argsort(-scores, kind="stable")[:count]
        answers.append([Match(images[index], float(scores[index])) for index in best])
    return answers


def _printable(name: str) -> str:
    """`name` without what a terminal obeys, and without the surrogates of undecodable bytes."""
    return "".join(character if character.isprintable() else "?" for character in name)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow can read"
    return str(error) or type(error).__name__
