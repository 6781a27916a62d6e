"""JPEG files that `decode='fast'` reduces."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnclip.assets import asset_path


def jpeg(width: int, height: int, mode: str = "RGB", **options: Any) -> bytes:
    """A JPEG with a gradient and fine detail."""
    rows, columns = np.mgrid[0:height, 0:width]
    detail = np.random.default_rng(width).integers(0, 40, (height, width))
    red, green = rows * 200 // height + detail, columns * 200 // width + detail
    pixels = np.stack([red, green, 240 - red], axis=2).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, "JPEG", quality=90, **options)
    return stream.getvalue()


def write_photos(folder: Path, count: int, side: int) -> list[Path]:
    """Enlarged images of the gallery as JPEG files."""
    folder.mkdir()
    found = []
    for number, path in enumerate(sorted(asset_path("gallery").glob("*.png"))[:count]):
        with Image.open(path) as image:
            photo = image.convert("RGB").resize((side + number, side), Image.Resampling.NEAREST)
        found.append(folder / f"{path.stem}.jpg")
        photo.save(found[-1], quality=90)
    return found
