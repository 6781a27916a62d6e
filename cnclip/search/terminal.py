"""Images in a terminal: kitty's protocol, iTerm2's, or sixel.

Written here since no maintained library encodes all three without querying the terminal.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping

import numpy as np
from PIL import Image

PROTOCOLS = ("kitty", "iterm", "sixel")
HEIGHT = 96
"""Pixels of a thumbnail, which may be up to twice as wide."""

_ROWS = 5  # of text, the height of a thumbnail in terminals that scale it
_KITTY_CHUNK = 4096
_SIXEL_COLORS = 256


def protocol(environment: Mapping[str, str], is_terminal: bool) -> str | None:
    """The one of PROTOCOLS with which the terminal displays images, if the environment names one.

    `CNCLIP_GRAPHICS` overrides the detection: one of PROTOCOLS, or `none`.

    Args:
        environment: `os.environ`.
        is_terminal: Whether the output is a terminal.
    """
    if not is_terminal:
        return None
    chosen = environment.get("CNCLIP_GRAPHICS", "").lower()
    if chosen:
        return chosen if chosen in PROTOCOLS else None
    term = environment.get("TERM", "").lower()
    program = environment.get("TERM_PROGRAM", "").lower()
    if term.startswith(("screen", "tmux")):
        return None  # these drop the sequences of all protocols
    if "KITTY_WINDOW_ID" in environment or re.search("kitty|ghostty", f"{term} {program}"):
        return "kitty"
    if program in ("iterm.app", "wezterm") or environment.get("LC_TERMINAL") == "iTerm2":
        return "iterm"
    return "sixel" if re.search("sixel|^(foot|mlterm|contour|yaft)", term) else None


def encode(image: Image.Image, protocol: str) -> str:
    """The escape sequences that draw an image of mode RGB at the cursor, in one of PROTOCOLS."""
    if protocol == "sixel":
        return _sixel(image)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    content = base64.b64encode(stream.getvalue()).decode("ascii")
    if protocol == "iterm":
        size = len(stream.getvalue())
        return f"\x1b]1337;File=inline=1;size={size};height={_ROWS}:{content}\a"
    # Keys of the first chunk: transmit and display (a=T) a PNG (f=100), send no reply (q=2).
    keys = f"a=T,f=100,q=2,r={_ROWS},"
    last = (len(content) - 1) // _KITTY_CHUNK
    return "".join(
        f"\x1b_G{'' if number else keys}m={int(number < last)};"
        f"{content[number * _KITTY_CHUNK : (number + 1) * _KITTY_CHUNK]}\x1b\\"
        for number in range(last + 1)
    )


def _sixel(image: Image.Image) -> str:
    """Bands of six rows. A character has the six bits of one column in one color."""
    coded = image.convert("RGB").quantize(_SIXEL_COLORS)
    palette = np.array(coded.getpalette("RGB"), np.int64).reshape(-1, 3) * 100 // 255
    pixels = np.asarray(coded)
    height, width = pixels.shape
    colors = [f"#{n};2;{';'.join(map(str, palette[n]))}" for n in np.unique(pixels)]
    bands = []
    for top in range(0, height, 6):
        band = pixels[top : top + 6]
        weights = 1 << np.arange(len(band))
        lines = []
        for number in np.unique(band):
            codes = 63 + weights @ (band == number)
            line = codes.astype(np.uint8).tobytes().decode("ascii")
            # Four or more of a character are written as a count.
            line = re.sub(r"(.)\1{3,}", lambda run: f"!{len(run[0])}{run[1]}", line)
            lines.append(f"#{number}{line}")
        bands.append("$".join(lines) + "-")
    return f'\x1bPq"1;1;{width};{height}{"".join(colors)}{"".join(bands)}\x1b\\'
