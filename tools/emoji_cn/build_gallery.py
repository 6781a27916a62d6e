"""Build the demo's image gallery from Noto Emoji.

Reads the npm packages ``@iconify-json/noto`` (the images, as SVG) and ``emojibase-data`` (their
Chinese names), draws the emoji listed in :data:`SELECTION` on white with ``resvg_py``, and writes
one 96 x 96 PNG per emoji together with ``gallery.jsonl``. The same packages give the same bytes.

    python tools/emoji_cn/build_gallery.py
    python tools/emoji_cn/build_gallery.py --packages DOWNLOADED -o cnclip/assets/gallery
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import resvg_py
from npm_package import read_package
from PIL import Image

NOTO = ("@iconify-json/noto", "1.2.9")
EMOJIBASE = ("emojibase-data", "17.0.0")

SIZE = 96
"""Side of an image in pixels."""

DEFAULT_OUTPUT = Path(__file__).resolve().parents[2] / "cnclip" / "assets" / "gallery"

SELECTION: dict[str, str] = {
    "faces": """
        😀 😂 😉 😊 😇 😍 😘 😋 😜 🤔 😴 🤒 🤢 🤮 🥶 🤯 🤠 🥳 😎 🤓 😭 😱 😡 😈 💀 💩 🤡 👻 👽 🤖
        😺 😹 🙈 ❤️ 💔 💙
        """,
    "people": """
        👍 👏 🙏 👀 👄 🦷 👶 👴 👵 👮 🎅 🧑‍🍳 🧑‍🚀 🧑‍🚒 💃 🏄
        """,
    "animals": """
        🐒 🦍 🐶 🐕 🐺 🦊 🦝 🐱 🐈 🐈‍⬛ 🦁 🐯 🐅 🐆 🐎 🦄 🦓 🦌 🐄 🐷 🐖 🐑 🐐 🐫 🦒
        🐘 🐁 🐹 🐰 🐇 🐿️ 🦔 🦇 🐻 🐨 🐼 🦥 🦘 🐔 🐓 🐣 🐤 🐦 🐧 🕊️ 🦅 🦆 🦢 🦉 🦩
        🦚 🦜 🐸 🐊 🐢 🦎 🐍 🐉 🦖 🐳 🐬 🦭 🐟 🐠 🦈 🐙 🐚 🦀 🦞 🦐 🐌 🦋 🐛 🐜 🐝
        🐞 🕷️ 🦂
        """,
    "plants": """
        💐 🌸 🌹 🌻 🌷 🌱 🌲 🌳 🌴 🌵 🍀 🍁 🍄
        """,
    "food": """
        🍇 🍉 🍊 🍋 🍌 🍍 🥭 🍎 🍏 🍐 🍑 🍒 🍓 🥝 🍅 🥥 🥑 🍆 🥔 🥕 🌽 🌶️ 🥒 🥦 🧅 🍞 🥐 🧀 🥩 🍔 🍟
        🍕 🥪 🌮 🥚 🍳 🍲 🥗 🍿 🍱 🍙 🍚 🍛 🍜 🍝 🍣 🥮 🥟 🍦 🍨 🍩 🍪 🎂 🍰 🧁 🍫 🍬 🍭 🍯 🍼 ☕ 🍵
        🍷 🍸 🍺 🍻 🧋 🧊 🥢
        """,
    "places": """
        🌍 🏔️ 🌋 🏕️ 🏝️ 🏠 🏥 🏫 🏭 🏰 🗽 ⛪ ⛲ ⛺ 🌅 🎡 🎪
        """,
    "transport": """
        🚂 🚄 🚇 🚌 🚑 🚒 🚓 🚕 🚗 🚚 🚜 🏎️ 🏍️ 🛵 🚲 ⛵ 🚤 🚢 ✈️ 🚁 🚀 🛸 🚦
        """,
    "sky": """
        🌙 🌕 ☀️ ⭐ ☁️ 🌧️ 🌪️ 🌈 ☔ ❄️ ⛄ 🔥 💧 🌊
        """,
    "activities": """
        🎃 🎄 🎆 🎈 🎁 🧧 🏆 🥇 ⚽ ⚾ 🏀 🏐 🏈 🎾 🎳 🏓 🏸 🥊 🎣 🎿 🎯 🪁 🎮 🎲 🧩 🧸 🎨
        """,
    "objects": """
        👓 👕 👖 🧣 🧤 🧦 👗 👟 👠 👑 🎩 🎓 💍 💎 📢 🔔 🎵 🎤 🎧 📻 🎷 🎺 🎸 🎹 🎻 🥁 📱 ☎️ 💻 📺
        📷 🔍 🕯️ 💡 🏮 📖 📚 📰 💰 💳 ✉️ 📦 ✏️ 📅 ✂️ 🗑️ 🔒 🔑 🔨 💣 🏹 🛡️ 🔧 🧲 🔬 🔭 💉 💊
        🚪 🛏️ 🪑 🚽 🛁 🧹 🪥 🛒 ⏰ ⌛ ⌚
        """,
}
"""The emoji of the gallery by group, in the order of ``gallery.jsonl``."""


def code_points(emoji: str) -> str:
    """Noto's name of ``emoji``: its code points without variation selector 16, joined by dashes."""
    return "-".join(f"{ord(character):04x}" for character in emoji if character != "\ufe0f")


def read_names(emojibase: dict[str, bytes]) -> dict[str, dict[str, Any]]:
    """Chinese records of emojibase by :func:`code_points`, of emoji with a group; no skin tones."""
    records = json.loads(emojibase["zh/data.json"])
    return {
        code_points(record["emoji"]): record
        for record in records
        if record.get("group") not in (None, 2)
    }


def svg_of(icons: dict[str, Any], name: str) -> str:
    """The SVG document of one icon of an Iconify set."""
    icon = icons["icons"][name]
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
    )


def draw(svg: str, size: int = SIZE) -> Image.Image:
    """``svg`` on white: an RGB image of ``size`` x ``size``."""
    png = resvg_py.svg_to_bytes(
        svg_string=svg, width=size, height=size, background="#ffffff", skip_system_fonts=True
    )
    with Image.open(io.BytesIO(bytes(png))) as drawn:
        return drawn.convert("RGB")


def build(noto: dict[str, bytes], emojibase: dict[str, bytes], output: Path) -> int:
    """Write the gallery to ``output`` and return the number of images.

    Images of an earlier build are removed first; licence and notice are left alone.

    Raises:
        ValueError: an emoji is listed twice, has no image or no name, or shares its name.
    """
    icon_names = json.loads(noto["chars.json"])
    icons = json.loads(noto["icons.json"])
    names = read_names(emojibase)

    rows: list[dict[str, Any]] = []
    images: dict[str, bytes] = {}
    labels: set[str] = set()
    for emoji in " ".join(SELECTION.values()).split():
        points = code_points(emoji)
        file = f"{points}.png"
        if file in images:
            raise ValueError(f"{emoji} ({points}) is listed twice")
        if points not in icon_names or points not in names:
            raise ValueError(f"{emoji} ({points}) has no image or no name")
        record = names[points]
        if record["label"] in labels:
            raise ValueError(f"{emoji} ({points}) shares its name {record['label']}")
        labels.add(record["label"])
        encoded = io.BytesIO()
        draw(svg_of(icons, icon_names[points])).save(encoded, "PNG", optimize=True)
        images[file] = encoded.getvalue()
        rows.append(
            {
                "file": file,
                "label": record["label"],
                "tags": record.get("tags", []),
                "emoji": record["emoji"],
            }
        )

    output.mkdir(parents=True, exist_ok=True)
    for stale in output.glob("*.png"):
        stale.unlink()
    for file, content in images.items():
        (output / file).write_bytes(content)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (output / "gallery.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
    return len(images)


def main(arguments: list[str] | None = None) -> int:
    """Command line of this script; returns the exit status."""
    parser = argparse.ArgumentParser(description="Build the demo's image gallery.")
    parser.add_argument(
        "--packages",
        type=Path,
        help="folder for the .tgz files of `npm pack`, fetched if they lack (default: temporary)",
    )
    parser.add_argument("-o", "--output", type=Path, default=DEFAULT_OUTPUT, help="gallery folder")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.packages or Path(temporary)
        count = build(read_package(*NOTO, folder), read_package(*EMOJIBASE, folder), options.output)
    size = sum(file.stat().st_size for file in options.output.glob("*.png"))
    print(f"{count} images, {size / 1e6:.2f} MB: {options.output}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
