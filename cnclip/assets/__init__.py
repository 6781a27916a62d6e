"""Bundled with the package: the model emoji-cn, the gallery of emoji, and a Chinese font."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def asset_path(name: Literal["emoji-cn", "gallery", "fonts"]) -> Path:
    """The directory of a bundled model, gallery or font."""
    return Path(__file__).parent / name
