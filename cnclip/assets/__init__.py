"""Bundled with the package: the model emoji-cn, the gallery of emoji, and a Chinese font."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Literal


def asset_path(name: Literal["emoji-cn", "gallery", "fonts"]) -> Path:
    """The directory of a bundled model, gallery or font."""
    return Path(str(resources.files(__name__) / name))
