"""Targets: the tokenizer and the preprocessing of images, compared with slow and plain ones."""

from __future__ import annotations

import os
from functools import cache

import numpy as np
from PIL import Image

from cnclip._core import ImageProcessor, Tokenizer
from tests.fuzz.fuzz_target import Finding, Target, split_choice
from tests.support.twins import image as image_twin
from tests.support.twins.tokenizer import Tokenizer as Twin

_SPECIALS = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n"
_WORDS = "a ##a b ##b ab ##ab ! ' i ##i e ##e σ ##σ ς ##ς α ##α 中 文 ; ᄀ ##ᅡ k ##k 〮 ##〮".split()
_ISAS = ("serial", "avx2", "avx512", "neon")
_MAX_SIDE = 50
_RESOLUTIONS = (1, 2, 7, 16, 21)


@cache
def _tokenizers(vocabulary: bytes) -> tuple[Tokenizer, Twin]:
    return Tokenizer(vocabulary), Twin(vocabulary)


def _tokenize(content: bytes) -> None:
    """A text in UTF-8, with lone surrogates for the bytes that are not."""
    length, rest = split_choice(content, (2, 3, 8, 52, 300))
    lower_case, rest = split_choice(rest, (True, True, False))
    text = rest.decode("utf-8", "surrogateescape")
    tokenizer, twin = _tokenizers(_SPECIALS + "\n".join(_WORDS).encode())
    ids, lengths = tokenizer.encode([text], length, lower_case)
    wanted = twin.encode(text, length, lower_case)
    if (ids[0].tolist(), lengths[0]) != wanted:
        raise Finding(f"{text!a}: {ids.tolist()} {lengths}, expected {wanted}")


def _texts() -> list[bytes]:
    words = ("aab ab!", "ΑΣ ΑΣΑ", "中文ab", "İÉ각", "a\u302e\U0001d165", "a\u037eb", "A'ß\x85K")
    return [b"\3\0" + word.encode() for word in words]


@cache
def _processors(resolution: int) -> list[ImageProcessor]:
    """One for each instruction set that this machine has."""
    found = []
    for isa in _ISAS:
        os.environ["CNCLIP_FORCE_ISA"] = isa
        try:
            found.append(ImageProcessor(resolution))
        except ValueError:
            continue
        finally:
            del os.environ["CNCLIP_FORCE_ISA"]
    return found


def _resample(content: bytes) -> None:
    """An image of any size, as an array with any strides and as Pillow's, by each set."""
    resolution, rest = split_choice(content, _RESOLUTIONS)
    width, rest = split_choice(rest, tuple(range(1, _MAX_SIDE)))
    height, rest = split_choice(rest, tuple(range(1, _MAX_SIDE)))
    steps, rest = split_choice(rest, ((1, 1), (2, 1), (1, 2), (-1, 1), (1, -1), (-2, -3)))
    stretch, rest = split_choice(rest, (1, 1, 1, 20))
    height *= stretch
    across, down = steps
    shape = (height * abs(down), width * abs(across), 3)
    noise = np.random.default_rng(len(rest)).integers(0, 256, shape, np.uint8)
    flat = noise.reshape(-1)
    given = np.frombuffer(rest[: flat.size], np.uint8)
    flat[: given.size] = given
    pixels = noise[::down, ::across]
    plain = Image.fromarray(np.ascontiguousarray(pixels))
    wanted = image_twin.pillow_tensor(plain, resolution)
    for processor in _processors(resolution):
        for image in (pixels, plain):
            got = processor.process([image])[0]
            if not np.array_equal(got.view(np.uint32), wanted.view(np.uint32)):
                raise Finding(f"{processor.isa}: {pixels.shape} to {resolution}, {steps}")


def _sizes() -> list[bytes]:
    sizes = ((0, 0), (3, 40), (40, 3), (20, 20), (15, 15), (49, 48))
    return [
        bytes([resolution, *size, step, step % 4]) + b"\xff\0\x80" * 50
        for resolution in range(len(_RESOLUTIONS))
        for step, size in enumerate(sizes)
    ]


TARGETS = {
    "pillow": Target(_resample, _sizes, max_len=512),
    "tokens": Target(_tokenize, _texts, max_len=512),
}
