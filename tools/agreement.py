"""Embeds random images and texts, and compares with slow twins, for each instruction set.

    python -m tools.agreement [--images 10000] [--texts 100000] [--isas serial avx2 ...] [--seed N]

The images have random sizes, modes, formats and forms. The texts are words of the vocabulary, any
Unicode, or long. The twins are those of the tests: the tokenizer in Python, Pillow's pixels, the
towers in plain torch, here in float64. Where ModelScope can be imported, its pipeline is compared
too. One process computes with each instruction set, in each precision that it has.

Prints a row for each instruction set, precision and kind: the number of items, the largest
deviation of a number, the smallest cosine, the number of the worst item, and the number of items
whose token ids or pixels differ. `--first 17 --images 1 --texts 0` repeats image 17, with the same
seed. Token ids and pixels must be equal, numbers in fp32 within 2e-6, cosines of bf16 and int8
at least 0.99, as in tests/core/test_precision.py; else the exit status is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cnclip import pipeline
from cnclip.errors import DeviceError, InvalidInputError
from tests.support.twins import image as image_twin
from tests.support.twins import tokenizer as tokenizer_twin
from tests.support.twins import towers

MODEL = Path(__file__).resolve().parent.parent / "tests" / "data" / "golden" / "tiny-vit"
HEADS, CONTEXT, RESOLUTION = 4, 52, 32  # of that model; both towers have as many heads
ISAS = ["serial", "avx2", "avx_vnni", "avx512", "avx512_vnni", "avx512_bf16", "neon", "neon_i8mm"]
PRECISIONS = ["fp32", "int8", "bf16"]
MAX_DEVIATION, MIN_COSINE = 2e-6, 0.99
AT_ONCE = 500

MODES = ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr", "I", "F", "I;16"]
FORMATS = {"PNG": ["RGB", "L", "1", "P", "RGBA", "LA"], "JPEG": ["RGB", "L", "CMYK"]}
FORMATS |= {"WEBP": ["RGB", "RGBA"], "BMP": ["RGB", "L", "1", "P"], "TIFF": ["RGB", "L", "RGBA"]}
FORMATS |= {"GIF": ["L", "P"]}

Rows = NDArray[np.float32]


# Items


def random_image(seed: int, number: int) -> Any:
    """An open image, an array, or the bytes of a file."""
    chooser = random.Random(f"image {seed} {number}")
    long, short = chooser.randint(1, 1500), chooser.randint(1, 12)
    middle = [chooser.randint(1, 200) for _ in range(2)]
    width, height = chooser.choices(
        [middle, (long, short), (short, long), (RESOLUTION, RESOLUTION), (4 * middle[0], 300)],
        [70, 10, 10, 5, 5],
    )[0]
    numbers = np.random.default_rng([seed, number])
    pixels = numbers.integers(0, 256, (height, width, 3), np.uint8)
    if chooser.random() < 0.5:  # smooth: what photos have more of
        pixels = np.sort(pixels, axis=chooser.randrange(2))
    form = chooser.choice(["array", "open", "file"])
    if form == "array":
        return pixels[:: chooser.choice([1, -1]), :: chooser.choice([1, -1])]
    if form == "open":
        return in_mode(Image.fromarray(pixels), chooser.choice(MODES))
    format = chooser.choice(list(FORMATS))
    image = in_mode(Image.fromarray(pixels), chooser.choice(FORMATS[format]))
    stream, options = io.BytesIO(), {}
    if format in ("JPEG", "WEBP"):
        options = {"quality": chooser.randint(20, 95)}
        exif = Image.Exif()
        exif[0x0112] = chooser.randint(1, 8)  # the orientation
        if format == "JPEG":
            options["exif"] = exif
    image.save(stream, format, **options)
    return stream.getvalue()


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """An RGB image in another mode."""
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    return image.convert("RGBA" if mode == "LA" else "RGB").convert(mode)


def random_text(seed: int, number: int, words: list[str]) -> str:
    """Words of the vocabulary, any Unicode, Chinese, or other letters; some are long."""
    chooser = random.Random(f"text {seed} {number}")
    count = chooser.choices([0, chooser.randint(1, 60), chooser.randint(60, 600)], [1, 90, 9])[0]
    kind = chooser.choice(["words", "unicode", "chinese", "letters", "mixed"])
    kinds = ["words", "unicode", "chinese", "letters"] if kind == "mixed" else [kind]
    parts = []
    for _ in range(count):
        kind = chooser.choice(kinds)
        if kind == "words":
            parts.append(chooser.choice(words))
        elif kind == "unicode":
            parts.append(chr(chooser.randrange(sys.maxunicode + 1)))
        elif kind == "chinese":
            parts.append(chr(chooser.randrange(0x4E00, 0xA000)))
        else:
            parts.append(chr(chooser.choice([chooser.randrange(128), chooser.randrange(0x600)])))
    return chooser.choice(["", " "]).join(parts)


def vocabulary_words() -> list[str]:
    lines = (MODEL / "vocab.txt").read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("##") for line in lines]


def parts(options: argparse.Namespace, kind: str) -> Iterator[list[Any]]:
    """The images or texts, some at a time."""
    words = vocabulary_words() if kind == "text" else []
    last = options.first + (options.texts if kind == "text" else options.images)
    for first in range(options.first, last, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, last))
        if kind == "text":
            yield [random_text(options.seed, number, words) for number in numbers]
        else:
            yield [random_image(options.seed, number) for number in numbers]


def digest(array: NDArray[Any]) -> bytes:
    """Of the bits of an array."""
    return hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).digest()


# Who computes. Each returns, for a kind, its rows and the digest of the input of each item.


def by_twins(options: argparse.Namespace, kind: str) -> tuple[Rows, list[bytes]]:
    """The slow twins, whose towers compute in float64."""
    checkpoint = torch.load(MODEL / "pytorch_model.bin", map_location="cpu", weights_only=True)
    state = checkpoint.get("state_dict", checkpoint)
    weights = {
        name.removeprefix("module.").removeprefix("clip_model."): value
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }
    weights = {name: value.double() for name, value in towers.rounded(weights).items()}
    tokenizer = tokenizer_twin.Tokenizer((MODEL / "vocab.txt").read_bytes())
    encode_text = torch.vmap(lambda ids: towers.encode_text(ids, weights, HEADS, "gelu"))
    encode_image = torch.vmap(lambda pixels: towers.encode_image(pixels, weights, HEADS))
    rows, digests = [np.empty((0, weights["visual.proj"].shape[1]))], []
    for items in parts(options, kind):
        if kind == "text":
            ids = np.array([tokenizer.encode(text, CONTEXT)[0] for text in items])
            digests += map(digest, ids)
            rows.append(encode_text(torch.from_numpy(ids)).numpy())
        else:
            pixels = np.stack([image_twin.pillow_tensor(opened(one), RESOLUTION) for one in items])
            digests += map(digest, pixels)
            rows.append(encode_image(torch.from_numpy(pixels).double()).numpy())
    return np.concatenate(rows), digests


def opened(item: Any) -> Any:
    """An item as ModelScope's `load_image` opens it, where it is a file."""
    if not isinstance(item, bytes):
        return item
    return ImageOps.exif_transpose(Image.open(io.BytesIO(item))).convert("RGB")


def by_cnclip(options: argparse.Namespace, precision: str, kind: str) -> tuple[Rows, list[bytes]]:
    """The package, with the instruction set of $CNCLIP_FORCE_ISA."""
    embedder = pipeline(model=MODEL, device="cpu", precision=precision)
    key = "text" if kind == "text" else "img"
    rows, digests = [np.empty((0, embedder.model.info.embed_dim), np.float32)], []
    for items in parts(options, kind):
        digests += map(digest, embedder.preprocess({key: items})[key])
        rows.append(embedder.forward({key: items})[f"{key}_embedding"])
    return np.concatenate(rows), digests


def by_modelscope(options: argparse.Namespace, kind: str) -> tuple[Rows, list[bytes]]:
    """ModelScope's pipeline, with files opened before."""
    from modelscope.pipelines import pipeline as open_pipeline
    from modelscope.utils.constant import Tasks

    embedder = open_pipeline(Tasks.multi_modal_embedding, model=str(MODEL), device="cpu")
    rows = []
    for items in parts(options, kind):
        for first in range(0, len(items), 50):
            some = items[first : first + 50]
            if kind == "image":
                images = [opened(one) for one in some]
                some = [
                    Image.fromarray(one) if isinstance(one, np.ndarray) else one for one in images
                ]
            key = "text" if kind == "text" else "img"
            found = embedder.forward({key: some})[f"{key}_embedding"]
            rows.append(found.detach().cpu().numpy())
    return np.concatenate(rows), []


KINDS = ("image", "text")


def compute(options: argparse.Namespace) -> None:
    """Write what one process computes to a folder: `--compute NAME FOLDER`."""
    name, folder = options.compute
    for precision in PRECISIONS if name == "cnclip" else [""]:
        for kind in KINDS:
            try:
                if name == "cnclip":
                    rows, digests = by_cnclip(options, precision, kind)
                elif name == "twins":
                    rows, digests = by_twins(options, kind)
                else:
                    rows, digests = by_modelscope(options, kind)
            except DeviceError:  # this processor does not compute in the precision
                continue
            except (ImportError, InvalidInputError) as error:  # nor by the instruction set
                sys.exit(f"{type(error).__name__}: {error}")
            file = Path(folder, f"{precision}-{kind}")
            np.save(file.with_suffix(".npy"), rows)
            file.with_suffix(".digests").write_bytes(b"".join(digests))


def run(options: argparse.Namespace, name: str, isa: str, folder: Path) -> str | None:
    """Compute in a process with an instruction set; returns why it cannot."""
    folder.mkdir()
    arguments = [f"--{key}={getattr(options, key)}" for key in ("images", "texts", "first", "seed")]
    environment = os.environ | ({"CNCLIP_FORCE_ISA": isa} if isa else {})
    done = subprocess.run(
        [sys.executable, "-m", "tools.agreement", *arguments, "--compute", name, str(folder)],
        env=environment,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    if done.returncode == 0:
        return None
    (*_, reason) = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
    if not reason.startswith(("InvalidInputError", "ImportError", "ModuleNotFoundError")):
        sys.exit(f"{name} {isa}: {done.stderr[-3000:]}")
    return reason


def compare(found: Path, expected: Path, label: str, first: int) -> list[str]:
    """Print a row for each kind and precision; returns what is wrong."""
    wrong = []
    for file in sorted(found.glob("*.npy")):
        precision, _, kind = file.stem.partition("-")
        rows, wanted = np.load(file), np.load(expected / f"-{kind}.npy")
        if not len(wanted):
            continue
        deviations = np.abs(rows - wanted).max(1)
        cosines = (rows * wanted).sum(1) / np.linalg.norm(rows, axis=1)
        worst = int(deviations.argmax())
        differing = different(file.with_suffix(".digests"), expected / f"-{kind}.digests")
        print(
            f"{label:12} {precision or 'fp32':9} {kind:6} {len(rows):7} {deviations.max():11.2e} "
            f"{1 - cosines.min():11.2e} {first + worst:8} {len(differing):6}",
            flush=True,
        )
        if differing:
            wrong.append(f"{label}: the input of {kind} {first + differing[0]} differs")
        is_exact = precision in ("", "fp32")
        if is_exact and not deviations.max() <= MAX_DEVIATION:
            wrong.append(f"{label}: {kind} {first + worst} deviates by {deviations.max():.2e}")
        if not cosines.min() >= MIN_COSINE:
            place = first + int(cosines.argmin())
            wrong.append(f"{label} {precision}: {kind} {place} has cosine {cosines.min():.4f}")
    return wrong


def different(found: Path, expected: Path) -> list[int]:
    """The numbers of the items whose digests differ; none where there are no digests."""
    some, others = (np.frombuffer(path.read_bytes(), "V16") for path in (found, expected))
    return [] if not len(some) else [i for i in range(len(others)) if some[i] != others[i]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first item")
    parser.add_argument("--isas", nargs="+", default=ISAS, metavar="ISA")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compute", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.compute:
        compute(options)
        return
    print(f"seed {options.seed}; deviations from the twins in float64")
    names = "isa", "precision", "kind", "items", "deviation", "1 - cosine", "worst", "inputs"
    print("{:12} {:9} {:6} {:>7} {:>11} {:>11} {:>8} {:>6}".format(*names))
    wrong, skipped, computed = [], [], 0
    with tempfile.TemporaryDirectory(prefix="cnclip-agreement-") as name:
        twins = Path(name, "twins")
        run(options, "twins", "", twins)
        for label in [*options.isas, "modelscope"]:
            is_ours, folder = label != "modelscope", Path(name, label)
            reason = run(options, "cnclip" if is_ours else label, label if is_ours else "", folder)
            if reason is not None:
                skipped.append(f"{label}: {reason}")
                continue
            computed += is_ours
            wrong += compare(folder, twins, label, options.first)
    print(*skipped, sep="\n")
    if not computed:
        wrong.append("no instruction set was compared")
    for one in wrong:
        print(one, file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
