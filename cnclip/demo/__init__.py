"""The demo: finds images by Chinese texts, with the model, gallery and font that ship.

This module opens and embeds images, and matches them with texts. `contact_sheet.py` draws the
result. The command is `cnclip demo`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .._files import open_file
from .._text import first_line, printable
from ..assets import asset_path
from ..errors import ImageError, ImageNotFoundError
from ..pipelines import MultiModalEmbeddingPipeline, stream
from ..preprocessors.decoding import ImageOptions, decode_image
from ..progress import progress
from ..sources import image_file, walk
from ..sources.image_names import ImageNames

QUERIES = ("猫", "汽车", "昆虫", "生日蛋糕", "水果", "树", "下雨", "大哭")
"""The default queries."""

AS_SHOWN = ImageOptions(background="white", depth="scale")

EXAMPLE_EMOJI = ("🍎", "🍏", "🍓", "🍅")
EXAMPLE_TEXTS = ("红苹果", "绿苹果", "草莓", "西红柿")
"""Images of the gallery and texts for the model card's example."""


@dataclass(frozen=True)
class GalleryImage:
    """An image file with its caption, and its emoji if it is from the bundled gallery."""

    path: Path
    label: str
    emoji: str = ""


@dataclass(frozen=True)
class Match:
    """An image found for a text, with the cosine similarity of the two embeddings."""

    image: GalleryImage
    score: float


def load_gallery() -> list[GalleryImage]:
    """The images that ship, in the gallery's order."""
    folder = asset_path("gallery")
    lines = (folder / "gallery.jsonl").read_text(encoding="utf-8").splitlines()
    rows = map(json.loads, lines)
    return [GalleryImage(folder / row["file"], row["label"], row["emoji"]) for row in rows]


def find_images(
    folder: Path, left_out: Iterable[Path] = (), names: ImageNames | None = None
) -> list[GalleryImage]:
    """Find image files in a folder and its subfolders, sorted by name, without hidden ones.

    Args:
        folder: The folder. The label of an image is its path in the folder, without the suffix.
        left_out: Files to leave out.
        names: Decides which files are images, and counts the others.

    Raises:
        NotADirectoryError: there is no such folder.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: no such folder")
    unwanted = {path.resolve() for path in left_out}
    images = []
    for file in walk(folder, names):
        name = Path(os.path.relpath(file.path, folder))
        path = folder / name
        if path.resolve() not in unwanted:
            images.append(GalleryImage(path, printable(str(name.with_suffix("")))))
    return images


def open_image(path: Path, options: ImageOptions = AS_SHOWN) -> Image.Image:
    """Open an image as a viewer shows it: upright, RGB, on white where it is transparent.

    16 bits per channel are scaled to 8, where Pillow would clip them.

    Args:
        path: The file.
        options: How it is decoded.

    Raises:
        ImageNotFoundError: there is no such file.
        ImageError: the file cannot be read as an image.
    """
    error = image_file(path).error
    if error is not None:
        kind = ImageError if path.exists() else ImageNotFoundError
        raise kind(error, file=path)
    try:
        with open_file(path) as file:
            return decode_image(file, options=options)
    except ImageError as damage:
        raise damage.at(file=path) from damage.__cause__
    except OSError as unreadable:
        raise ImageError(first_line(unreadable), file=path) from unreadable


def options_for(pipeline: MultiModalEmbeddingPipeline) -> ImageOptions:
    """How image files are decoded to embed them: as a viewer shows them, with its `decode`."""
    own = pipeline.preprocessor.image_options
    return replace(AS_SHOWN, decode=own.decode, resolution=own.resolution)


def embed_images(
    pipeline: MultiModalEmbeddingPipeline,
    images: Sequence[GalleryImage],
    *,
    show_progress: bool = False,
) -> stream.Batch[GalleryImage]:
    """Embed image files; threads open them.

    Returns:
        All images as one batch: those that were embedded with their vectors, and those that failed.
    """
    embedded, failed = [], []
    options = options_for(pipeline)
    vectors = [np.empty((0, pipeline.model.info.embed_dim), np.float32)]
    with progress("images", len(images), "image", enabled=show_progress) as advance:
        opener = partial(open_gallery_image, options=options)
        for batch in stream.embed_images(pipeline, images, opener):
            embedded += batch.embedded
            failed += batch.failed
            vectors.append(batch.vectors)
            advance(len(batch.items))
    return stream.Batch(list(images), embedded, np.concatenate(vectors), failed)


def open_gallery_image(image: GalleryImage, options: ImageOptions = AS_SHOWN) -> Image.Image:
    """Open an image as `open_image` does; one that ships, whatever formats are off."""
    if image.emoji:
        options = replace(options, formats="all")
    return open_image(image.path, options)


def find_matches(
    texts: NDArray[np.float32],
    images: Sequence[GalleryImage],
    vectors: NDArray[np.float32],
    count: int,
) -> list[list[Match]]:
    """Find the images with the highest cosine similarity to each text, best first.

    Args:
        texts: float32 [m, d], rows of unit length.
        images: n images.
        vectors: float32 [n, d], the embeddings of the images, rows of unit length.
        count: The number of matches for each text; fewer if there are fewer images.

    Returns:
        A list for each text. Images with equal scores are in the order of `images`.
    """
    answers = []
    for scores in texts @ vectors.T:
        best = np.argsort(-scores, kind="stable")[:count]
        answers.append([Match(images[index], float(scores[index])) for index in best])
    return answers
