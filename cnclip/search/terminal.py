"""Images in a terminal by kitty's protocol, iTerm2's or sixel: no maintained library has all."""

import base64
import io
import re
from collections.abc import Mapping

import numpy as np
from PIL import Image

HEIGHT, ROWS = 96, 5  # of a thumbnail: pixels, and lines of text in terminals that scale it
NAMES = (
    "(?P<kitty>kitty|ghostty)|(?P<iterm>iterm|wezterm)|(?P<sixel>sixel|foot|mlterm|contour|yaft)"
)


def protocol(environment: Mapping[str, str], is_terminal: bool) -> str | None:
    """The protocol by which the terminal draws images, or None; `CNCLIP_GRAPHICS` overrides it."""
    variables = ("TERM", "TERM_PROGRAM", "LC_TERMINAL", "KITTY_WINDOW_ID")
    known = " ".join(f"{name}={environment[name]}" for name in variables if name in environment)
    chosen = environment.get("CNCLIP_GRAPHICS") or re.sub("^TERM=(tmux|screen).*", "", known)
    match = re.search(NAMES, chosen, re.IGNORECASE)
    return match.lastgroup if match and is_terminal else None


def encode(image: Image.Image, protocol: str) -> str:
    """The escape sequences that draw an RGB image at the cursor by the protocol."""
    image.save(stream := io.BytesIO(), "PNG")
    content = base64.b64encode(stream.getvalue()).decode()
    if protocol == "iterm":
        return f"\x1b]1337;File=inline=1;size={stream.tell()};height={ROWS}:{content}\a"
    if protocol == "kitty":  # a=T: display, f=100: a PNG, q=2: send no reply, m=1: more follows
        *chunks, last = re.findall(".{1,4096}", content)
        more = "".join(f"m=1;{chunk}\x1b\\\x1b_G" for chunk in chunks)
        return f"\x1b_Ga=T,f=100,q=2,r={ROWS},{more}m=0;{last}\x1b\\"
    pixels = np.asarray(coded := image.quantize(256))
    palette = np.array(coded.getpalette("RGB")).reshape(-1, 3) * 100 // 255
    text = "".join("#{};2;{};{};{}".format(n, *palette[n]) for n in np.unique(pixels))
    for top in range(0, image.height, 6):  # a character has the bits of six pixels in one color
        band = pixels[top : top + 6]
        for color in np.unique(band):
            codes = 63 + (1 << np.arange(len(band))) @ (band == color)
            line = codes.astype(np.uint8).tobytes().decode()
            line = re.sub(r"(.)\1{3,}", lambda run: f"!{len(run[0])}{run[1]}", line)
            text += f"#{color}{line}$"
        text += "-"
    return f'\x1bPq"1;1;{image.width};{image.height}{text}\x1b\\'
