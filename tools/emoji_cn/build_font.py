"""Build the demo's font: the part of Noto Sans SC that the demo can draw.

Reads ``NotoSansSC_400Regular.ttf`` from the npm package ``@expo-google-fonts/noto-sans-sc``, keeps
the characters of the demo model's vocabulary, of the gallery's names, ASCII and Chinese
punctuation, and drops hinting and layout tables. The same package gives the same bytes.

    python tools/emoji_cn/build_font.py
    python tools/emoji_cn/build_font.py --packages DOWNLOADED -o cnclip/assets/fonts
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont
from npm_package import read_package

PACKAGE = ("@expo-google-fonts/noto-sans-sc", "0.4.3")
SOURCE = "400Regular/NotoSansSC_400Regular.ttf"
NAME = "NotoSansSC-Regular-subset.ttf"

PUNCTUATION = "·×°–—‘’“”…、。〈〉《》「」『』【】〔〕！％（），－．／：；？［］～￥"
SHEET_TITLE = "以文搜图"
"""The title of the contact sheet."""

COPYRIGHT_NAMES = [0, 1, 2, 3, 4, 5, 6, 7, 13, 14]
"""Records of the name table that are kept: copyright, names, version, trademark, licence."""

ASSETS = Path(__file__).resolve().parents[2] / "cnclip" / "assets"


def characters(vocabulary: Path, gallery: Path) -> set[int]:
    """Code points that the font keeps."""
    text = "".join(map(chr, range(0x20, 0x7F))) + "\u00a0\u3000" + PUNCTUATION + SHEET_TITLE
    text += "".join(vocabulary.read_text(encoding="utf-8").split())
    for line in gallery.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        text += row["label"] + "".join(row["tags"])
    return set(map(ord, text))


def build(font_file: bytes, keep: set[int]) -> tuple[bytes, set[int]]:
    """The subset font, and the code points of ``keep`` that the font has no glyph for."""
    options = subset.Options()
    options.hinting = False
    options.layout_features = []
    options.drop_tables += ["GSUB", "GPOS", "GDEF", "BASE", "vhea", "vmtx", "VORG", "STAT", "DSIG"]
    options.glyph_names = False
    options.notdef_outline = True
    options.name_IDs = COPYRIGHT_NAMES
    options.name_languages = [0x409]
    options.recalc_timestamp = False
    font = TTFont(io.BytesIO(font_file), recalcTimestamp=False)
    missing = keep - set(font.getBestCmap())
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=sorted(keep))
    subsetter.subset(font)
    written = io.BytesIO()
    subset.save_font(font, written, options)
    return written.getvalue(), missing


def main(arguments: list[str] | None = None) -> int:
    """Command line of this script; returns the exit status."""
    parser = argparse.ArgumentParser(description="Build the demo's font.")
    parser.add_argument(
        "--packages",
        type=Path,
        help="folder for the .tgz file of `npm pack`, fetched if it lacks (default: temporary)",
    )
    parser.add_argument("-o", "--output", type=Path, default=ASSETS / "fonts", help="font folder")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.packages or Path(temporary)
        files = read_package(*PACKAGE, folder, only=SOURCE)
        licence = read_package(*PACKAGE, folder, only="LICENSE_FONT")["LICENSE_FONT"]
    keep = characters(ASSETS / "emoji-cn" / "vocab.txt", ASSETS / "gallery" / "gallery.jsonl")
    font, missing = build(files[SOURCE], keep)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / NAME).write_bytes(font)
    (options.output / "OFL.txt").write_bytes(licence)
    lacking = " ".join(f"U+{point:04X}" for point in sorted(missing)) or "none"
    print(
        f"{len(keep) - len(missing)} characters, {len(font) / 1e3:.0f} kB; lacking: {lacking}",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
