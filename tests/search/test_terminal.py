"""Images in a terminal."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cnclip.assets import asset_path
from cnclip.search import terminal

GALLERY = asset_path("gallery")


@pytest.mark.parametrize(
    ("environment", "how"),
    [
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm"),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "mlterm"}, "sixel"),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}, None),
        ({"TERM": "xterm-kitty", "CNCLIP_GRAPHICS": "none"}, None),
        ({"TERM": "xterm", "CNCLIP_GRAPHICS": "sixel"}, "sixel"),
        ({}, None),
    ],
)
def test_terminals_are_known_by_the_environment(
    environment: dict[str, str], how: str | None
) -> None:
    assert terminal.protocol(environment, True) == how
    assert terminal.protocol(environment, False) is None


def test_kitty_and_iterm_get_the_image_whole() -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (80, 90, 3), np.uint8))
    text = terminal.encode(image, "kitty")
    parts = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    assert len(parts) > 1 and "".join(f"\x1b_G{k};{c}\x1b\\" for k, c in parts) == text
    assert "a=T" in parts[0][0] and "f=100" in parts[0][0]
    assert [keys[-3:] for keys, _ in parts] == ["m=1"] * (len(parts) - 1) + ["m=0"]
    assert all(len(chunk) == 4096 for _, chunk in parts[:-1])
    iterm = re.fullmatch(r"\x1b\]1337;File=([^:]*):(.*)\a", terminal.encode(image, "iterm"))
    assert iterm is not None and "inline=1" in iterm[1]
    for content in ("".join(chunk for _, chunk in parts), iterm[2]):
        with Image.open(io.BytesIO(base64.b64decode(content))) as sent:
            np.testing.assert_array_equal(np.asarray(sent), np.asarray(image))


def drawn(text: str) -> NDArray[np.uint8]:
    """What a sixel terminal draws."""
    match = re.fullmatch(r'\x1bPq"1;1;(\d+);(\d+)(.*)\x1b\\', text, re.DOTALL)
    assert match is not None
    canvas = np.zeros((int(match[2]) + 6, int(match[1]), 3), np.uint8)
    colors: dict[str, list[int]] = {}
    color, x, y = [0, 0, 0], 0, 0
    token = re.compile(r"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|!(\d+)([?-~])|([?-~])|([$-])")
    at = 0
    while at < len(match[3]):
        found = token.match(match[3], at)
        assert found is not None
        at = found.end()
        number, *rgb, chosen, count, repeated, one, motion = found.groups()
        if number:
            colors[number] = [round(int(part) * 2.55) for part in rgb]
        elif chosen:
            color = colors[chosen]
        elif motion:
            x, y = 0, y + 6 * (motion == "-")
        else:
            end = x + int(count or 1)
            for bit in range(6):
                if ord(repeated or one) - 63 >> bit & 1:
                    canvas[y + bit, x:end] = color
            x = end
    return canvas[: int(match[2])]


@pytest.mark.parametrize("size", [(96, 96), (50, 31), (1, 1)])
def test_sixel_draws_the_image(size: tuple[int, int]) -> None:
    with Image.open(GALLERY / "1f431.png") as opened:
        image = opened.convert("RGB").resize(size)
    got = drawn(terminal.encode(image, "sixel")).astype(int)
    assert got.shape == (size[1], size[0], 3)
    assert np.abs(got - np.asarray(image).astype(int)).mean() < 6
