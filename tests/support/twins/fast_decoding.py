"""The slow twin of `decode='fast'`: Pillow chooses the scale, from `draft`'s own rule."""

from __future__ import annotations

import io

from PIL import Image, ImageOps


def decode_fast(content: bytes, resolution: int) -> Image.Image:
    """The image of a file as RGB, turned upright; a JPEG of at least twice the resolution."""
    with Image.open(io.BytesIO(content)) as image:
        if image.format in ("JPEG", "MPO"):
            image.draft(None, (2 * resolution, 2 * resolution))
        return ImageOps.exif_transpose(image).convert("RGB")
