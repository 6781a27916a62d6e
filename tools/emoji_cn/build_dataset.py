"""Build Emoji-CN: emoji of seven image sets with their Chinese names, in Chinese-CLIP's layout.

Reads npm packages of Iconify (the images, as SVG) and ``emojibase-data`` (labels and tags),
draws on white with ``resvg_py``, and writes two splits. The same packages give the same bytes.

- ``train``: six sets. A text is a label or a tag; it names the images of all emoji that have it.
- ``test``: Twemoji, a style that ``train`` lacks. Its texts are only the labels.

    python tools/emoji_cn/build_dataset.py -o emoji-cn
    cnclip eval retrieval emoji-cn/ --split test --model emoji-cn
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from build_gallery import EMOJIBASE, NOTO, draw, read_names, svg_of
from npm_package import read_package

from cnclip.datasets import write_split

FLUENT = ("@iconify-json/fluent-emoji-flat", "1.2.6")

TRAIN = (
    NOTO,
    ("@iconify-json/noto-v1", "1.2.5"),
    FLUENT,
    ("@iconify-json/fluent-emoji", "1.2.7"),
    ("@iconify-json/fxemoji", "1.2.2"),
    ("@iconify-json/emojione", "1.2.3"),
)
TEST = (("@iconify-json/twemoji", "1.2.5"),)

SIZE = 80
"""Side of an image in pixels."""

SET_STEP = 10_000
"""An image's id is this times the number of its set, plus the number of its emoji in emojibase."""


def emoji_of_icons(package: dict[str, bytes], shared: dict[str, str]) -> Iterator[tuple[str, str]]:
    """(code points, icon) of a set's emoji; ``shared`` has the names if the set has none."""
    chars = json.loads(package["chars.json"])
    names = {icon: points for points, icon in chars.items()} or shared
    for icon in json.loads(package["icons.json"])["icons"]:
        if icon in names:
            yield "-".join(p for p in names[icon].split("-") if p != "fe0f"), icon


def draw_set(
    package: dict[str, bytes], shared: dict[str, str], wanted: dict[str, Any]
) -> dict[str, bytes]:
    """PNG files of a set's emoji, by code points."""
    icons = json.loads(package["icons.json"])
    found: dict[str, bytes] = {}
    for points, icon in emoji_of_icons(package, shared):
        if points in wanted and points not in found:
            file = io.BytesIO()
            draw(svg_of(icons, icon), SIZE).save(file, "PNG")
            found[points] = file.getvalue()
    return found


def write(
    output: Path,
    split: str,
    sets: list[tuple[int, dict[str, bytes]]],
    names: dict[str, dict[str, Any]],
    *,
    tags: bool,
) -> tuple[int, int]:
    """Write a split; returns how many images and texts it has."""
    number = {points: index for index, points in enumerate(names)}
    images = [
        (place * SET_STEP + number[points], content)
        for place, drawn in sets
        for points, content in drawn.items()
    ]
    texts: dict[str, list[int]] = {}
    for points, record in names.items():
        ids = [place * SET_STEP + number[points] for place, drawn in sets if points in drawn]
        for text in dict.fromkeys([record["label"], *(record.get("tags", []) if tags else [])]):
            if ids:
                texts.setdefault(text, []).extend(ids)
    rows = [(text_id, text, ids) for text_id, (text, ids) in enumerate(texts.items())]
    write_split(output, split, images, rows)
    return len(images), len(rows)


def build(packages: Path, output: Path, wanted: list[str]) -> None:
    """Write splits to ``output``, and print their sizes to stderr."""
    names = read_names(read_package(*EMOJIBASE, packages))
    shared: dict[str, str] = {}
    for package in (NOTO, FLUENT):
        chars = json.loads(read_package(*package, packages)["chars.json"])
        shared = {icon: points for points, icon in chars.items()} | shared
    for split, sets, tags, first in (("train", TRAIN, True, 1), ("test", TEST, False, 101)):
        if split not in wanted:
            continue
        drawn = []
        for place, package in enumerate(sets, first):
            drawn.append((place, draw_set(read_package(*package, packages), shared, names)))
            print(f"{split}: {package[0]}, {len(drawn[-1][1])} images", file=sys.stderr)
        images, texts = write(output, split, drawn, names, tags=tags)
        print(f"{split}: {images} images, {texts} texts: {output}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Command line of this script; returns the exit status."""
    parser = argparse.ArgumentParser(description="Build the Emoji-CN data set.")
    parser.add_argument(
        "--packages",
        type=Path,
        help="folder for the .tgz files of `npm pack`, fetched if they lack (default: temporary)",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("emoji-cn"), help="folder")
    parser.add_argument(
        "--split", choices=("train", "test"), action="append", help="this alone (default: both)"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        packages = options.packages or Path(temporary)
        build(packages, options.output, options.split or ["train", "test"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
