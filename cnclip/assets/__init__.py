"""What ships with the package: the model emoji-cn, the gallery of emoji, and a Chinese font."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Literal


def asset_path(name: Literal["emoji-cn", "gallery", "fonts"]) -> Path:
    """The directory of a model, gallery or font that ships."""
    return Path(str(resources.files(__name__) / name))
