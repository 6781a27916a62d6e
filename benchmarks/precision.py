"""Accuracy of bf16 and int8: the cosine of each embedding to fp32, and recall.

Usage: python benchmarks/precision.py [--model MODEL] [--pairs FILE]

FILE is JSON Lines: {"file": an image in the same folder, "label": a text, ...}. By default the
bundled model embeds the bundled gallery of emoji. Each label is a query for its image; R@k is the
share of labels whose image is among the first k.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cnclip

GALLERY = Path(cnclip.__file__).parent / "assets" / "gallery" / "gallery.jsonl"
Rows = NDArray[np.float32]


def embed(model: str, precision: str, images: list[Path], texts: list[str]) -> tuple[Rows, Rows]:
    pipeline = cnclip.pipeline(model=model, device="cpu", precision=precision)
    found = pipeline.forward({"img": images, "text": texts})
    return found["img_embedding"], found["text_embedding"]


def recall(images: Rows, texts: Rows, k: int) -> float:
    """Per cent of the texts whose image is among the k nearest."""
    scores = texts @ images.T
    better = (scores > np.diagonal(scores)[:, None]).sum(1)
    return float((better < k).mean() * 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="emoji-cn", help="default: %(default)s")
    parser.add_argument("--pairs", type=Path, default=GALLERY, help="default: the gallery")
    arguments = parser.parse_args()
    lines = arguments.pairs.read_text(encoding="utf-8").splitlines()
    pairs: list[dict[str, Any]] = [json.loads(line) for line in lines if line.strip()]
    images = [arguments.pairs.parent / pair["file"] for pair in pairs]
    texts = [pair["label"] for pair in pairs]
    print(f"{arguments.model}: {len(pairs)} images, each with a text")
    print(f"{'':6} {'cosine, images':>19} {'cosine, texts':>19} {'R@1':>6} {'R@5':>6} {'R@10':>6}")
    print(f"{'':6} {'min':>9} {'mean':>9} {'min':>9} {'mean':>9}")
    exact: tuple[Rows, Rows] | None = None
    for precision in ("fp32", "bf16", "int8"):
        try:
            rows = embed(arguments.model, precision, images, texts)
        except cnclip.errors.DeviceError as error:
            print(f"{precision:6} {error}")
            continue
        exact = exact or rows
        cosines = [(found * wanted).sum(1) for found, wanted in zip(rows, exact, strict=True)]
        similar = " ".join(f"{part.min():9.5f} {part.mean():9.5f}" for part in cosines)
        recalls = " ".join(f"{recall(*rows, k):6.1f}" for k in (1, 5, 10))
        print(f"{precision:6} {similar} {recalls}")


if __name__ == "__main__":
    main()
