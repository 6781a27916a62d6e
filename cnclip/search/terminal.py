"""Images in a terminal: by kitty's protocol, iTerm2's, or sixel."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import numpy as np
from PIL import Image

PROTOCOLS = ("kitty", "iterm", "sixel")
HEIGHT = 96
"""Pixels of a thumbnail; it may be twice as wide."""

_ROWS = 5  # of the terminal, for a thumbnail where the terminal scales it
_KITTY_CHUNK = 4096
_SIXEL_COLORS = 256


def protocol(environment: Mapping[str, str], is_terminal: bool) -> str | None:
    """How the terminal draws images.

    Args:
        environment: `os.environ`.
        is_terminal: Whether the output goes to a terminal at all.

    Returns:
        One of PROTOCOLS, or None where the environment names no terminal that is known to draw
        them. `CNCLIP_GRAPHICS` names one of them, or `none`, where the environment misleads.
    """
    if not is_terminal:
        return None
    chosen = environment.get("CNCLIP_GRAPHICS", "").lower()
    if chosen:
        return chosen if chosen in PROTOCOLS else None
    term = environment.get("TERM", "").lower()
    program = environment.get("TERM_PROGRAM", "").lower()
    if term.startswith(("screen", "tmux")):
        return None  # they swallow all three
    if "kitty" in term or "ghostty" in term or program == "ghostty":
        return "kitty"
    if "KITTY_WINDOW_ID" in environment:
        return "kitty"
    if program in ("iterm.app", "wezterm") or environment.get("LC_TERMINAL") == "iTerm2":
        return "iterm"
    if "sixel" in term or term.startswith(("foot", "mlterm", "contour", "yaft")):
        return "sixel"
    return None


def encode(image: Image.Image, how: str) -> str:
    """The escape sequences that draw an image where the cursor is.

    Args:
        image: Mode RGB.
        how: One of PROTOCOLS.
    """
    if how == "sixel":
        return _sixel(image)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    content = base64.b64encode(stream.getvalue()).decode("ascii")
    if how == "iterm":
        size = len(stream.getvalue())
        return f"\x1b]1337;File=inline=1;size={size};height={_ROWS}:{content}\a"
    chunks = [content[at : at + _KITTY_CHUNK] for at in range(0, len(content), _KITTY_CHUNK)]
    parts = []
    for number, chunk in enumerate(chunks):
        # The first says: transmit and show (a=T) a PNG (f=100), be quiet (q=2), in so many rows.
        keys = f"a=T,f=100,q=2,r={_ROWS}," if number == 0 else ""
        more = int(number < len(chunks) - 1)
        parts.append(f"\x1b_G{keys}m={more};{chunk}\x1b\\")
    return "".join(parts)


def _sixel(image: Image.Image) -> str:
    """Bands of six rows: for each colour of a band, which of the six its columns have."""
    coded = image.convert("RGB").quantize(_SIXEL_COLORS)
    palette = np.array(coded.getpalette("RGB") or [], np.int64).reshape(-1, 3)
    pixels = np.asarray(coded)
    height, width = pixels.shape
    out = [f'\x1bPq"1;1;{width};{height}']
    for number in np.unique(pixels).tolist():
        red, green, blue = (palette[number] * 100 // 255).tolist()
        out.append(f"#{number};2;{red};{green};{blue}")
    weights = 1 << np.arange(6)[:, None]
    for top in range(0, height, 6):
        band = pixels[top : top + 6]
        lines = []
        for number in np.unique(band).tolist():
            bits = ((band == number) * weights[: len(band)]).sum(axis=0)
            lines.append(f"#{number}" + _runs(bits.tolist()))
        out.append("$".join(lines) + "-")
    out.append("\x1b\\")
    return "".join(out)


def _runs(bits: list[int]) -> str:
    """A line of sixels, in which repeated ones are counted."""
    out = []
    at = 0
    while at < len(bits):
        end = at
        while end < len(bits) and bits[end] == bits[at]:
            end += 1
        character = chr(63 + bits[at])
        out.append(f"!{end - at}{character}" if end - at > 3 else character * (end - at))
        at = end
    return "".join(out)
