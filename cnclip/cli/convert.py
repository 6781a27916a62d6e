"""`cnclip convert SRC -o OUT`."""

from __future__ import annotations

import argparse

from .. import convert as conversion
from ..archive import SUFFIX

SUMMARY = "convert a model to an archive or to another format"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "source",
        metavar="SRC",
        help="a ModelScope or Hugging Face model directory, a cn_clip .pt file, a hub id "
        "(damo/..., OFA-Sys/..., ms:OWNER/MODEL, hf:OWNER/MODEL), an archive, or emoji-cn",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        required=True,
        help=f"what to write: NAME{SUFFIX}, NAME.pt for cn_clip, else a directory that does not "
        "exist; its parent directory must exist",
    )
    parser.add_argument(
        "--to", choices=conversion.FORMATS, default="archive", help="default: %(default)s"
    )
    parser.add_argument(
        "--half", action="store_true", help="with --to onnx: store the large weights in float16"
    )
    parser.add_argument(
        "--allow-nonfinite", action="store_true", help="accept weights that are NaN or infinite"
    )
    parser.add_argument(
        "--revision", metavar="REV", help="branch, tag or commit of a model on a hub"
    )
    hints = parser.add_argument_group("for .pt files, which carry no configuration")
    for tower in ("vision", "text"):
        hints.add_argument(
            f"--{tower}-head-width",
            type=int,
            metavar="N",
            help=f"columns of one attention head of the {tower} tower",
        )
    hints.add_argument("--vocabulary", metavar="FILE", help="vocab.txt, if not the published one")


def run(arguments: argparse.Namespace) -> int:
    """Convert, and print the path of the output."""
    path = conversion.convert(
        arguments.source,
        arguments.output,
        to=arguments.to,
        vision_head_width=arguments.vision_head_width,
        text_head_width=arguments.text_head_width,
        vocabulary=arguments.vocabulary,
        half=arguments.half,
        allow_nonfinite=arguments.allow_nonfinite,
        revision=arguments.revision,
    )
    files = list(path.iterdir()) if path.is_dir() else [path]
    print(f"{path} ({sum(file.stat().st_size for file in files) / 1e6:.1f} MB)")
    return 0
