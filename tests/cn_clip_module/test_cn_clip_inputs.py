"""`tokenize` and `image_transform` against independent definitions."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cnclip import cn_clip
from cnclip.checkpoints.vocabulary import PUBLISHED_VOCABULARY
from cnclip.cn_clip.clip import _tokenizer
from cnclip.errors import CheckpointError, InputTypeError, InvalidInputError
from cnclip.preprocessors.full_tokenizer import FullTokenizer
from tests.support.cn_clip_peer import import_cn_clip
from tests.support.twins import tokenizer as twin
from tests.support.twins.image import pillow_tensor

MODES = ["RGB", "RGBA", "P", "L", "LA", "1", "CMYK", "I;16", "HSV", "YCbCr", "F"]
TEXTS = [
    "一个在逛公园的女孩",
    "Playful CAT，unaffable “引号” naïve Ångström",
    "",
    " \t\n",
    "a" * 300,
    "皮卡丘⚡️🐱 x\ud800y",
    "İstanbul ΣΑΣ ﬁ",
    "长" * 70,
    "[CLS] [MASK] ##ing don't",
]


def image_of(mode: str, size: tuple[int, int] = (61, 40)) -> Image.Image:
    noise = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 4), np.uint8)
    image = Image.fromarray(noise, "RGBA") if mode in ("RGBA", "P") else None
    if mode == "I;16":
        return Image.fromarray(noise[..., 0].astype(np.uint16) * 200)
    rgb = Image.fromarray(noise[..., :3].copy())
    return (image or rgb).convert(mode) if mode != "P" else rgb.quantize(20)


@pytest.mark.parametrize("mode", MODES)
def test_pixels_are_resized_before_they_become_rgb(mode: str) -> None:
    image = image_of(mode)
    for side in (32, 224):
        tensor = cn_clip.image_transform(side)(image)
        assert tensor.shape == (3, side, side) and tensor.dtype == torch.float32
        assert np.array_equal(tensor.numpy(), pillow_tensor(image, side))
    if mode in ("RGBA", "P"):  # where the order changes the result
        other = cn_clip.image_transform(32)(image.convert("RGB"))
        assert not np.array_equal(cn_clip.image_transform(32)(image).numpy(), other.numpy())


@pytest.mark.parametrize("mode", MODES)
def test_pixels_are_cn_clips(mode: str) -> None:
    theirs = import_cn_clip().image_transform(224)
    for size in ((61, 40), (300, 7), (224, 224), (640, 480)):
        image = image_of(mode, size)
        assert torch.equal(cn_clip.image_transform(224)(image), theirs(image)), size


def test_a_transform_is_sent_to_other_processes() -> None:
    transform = cn_clip.image_transform(48)
    again = pickle.loads(pickle.dumps(transform))
    assert repr(again) == "ImageTransform(48)"
    assert torch.equal(again(image_of("RGB")), transform(image_of("RGB")))


def test_what_is_not_an_image(tmp_path: Path) -> None:
    for wrong in ("cat.png", np.zeros((3, 4, 3), np.uint8), torch.zeros(3, 4, 4), None):
        with pytest.raises(InputTypeError, match="image: expected PIL.Image.Image, got"):
            cn_clip.image_transform(32)(wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="without pixels"):
        cn_clip.image_transform(32)(Image.new("RGB", (0, 3)))
    for size in (0, -1, 1 << 20):
        with pytest.raises(InvalidInputError, match="image_size"):
            cn_clip.image_transform(size)
    with pytest.raises(InputTypeError, match="image_size"):
        cn_clip.image_transform((224, 224))  # type: ignore[arg-type]
    image_of("RGB").save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:900])
    with Image.open(tmp_path / "a.png") as image, pytest.raises(OSError):
        cn_clip.image_transform(32)(image)


def test_ids() -> None:
    ids = cn_clip.tokenize(TEXTS)
    assert ids.shape == (len(TEXTS), 52) and ids.dtype == torch.int64
    assert torch.equal(cn_clip.tokenize(iter(TEXTS)), ids)
    assert torch.equal(cn_clip.tokenize(TEXTS[0]), ids[:1])
    assert cn_clip.tokenize([]).shape == (0, 52)
    vocabulary = twin.read_vocabulary(PUBLISHED_VOCABULARY.read_bytes())
    assert _tokenizer.vocab == vocabulary
    assert ids[0].tolist()[:11] == [
        vocabulary[word] for word in ["[CLS]", *"一个在逛公园的女孩", "[SEP]"]
    ]
    assert ids[7].tolist() == [101, *[vocabulary["长"]] * 50, 102]
    short = cn_clip.tokenize(TEXTS, context_length=7)
    assert short.shape == (len(TEXTS), 7) and short[7, -1] == 102
    for length, kind in ((1, InvalidInputError), (1 << 30, InvalidInputError), (5.5, TypeError)):
        with pytest.raises(kind, match="context_length"):
            cn_clip.tokenize("猫", length)  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match=r"\[1\]"):
        cn_clip.tokenize(["猫", 3])  # type: ignore[list-item]


def test_tokens_and_ids_are_cn_clips() -> None:
    theirs = import_cn_clip()
    texts = [text for text in TEXTS if "\ud800" not in text]
    for length in (52, 24, 77, 5):
        assert torch.equal(cn_clip.tokenize(texts, length), theirs.tokenize(texts, length))
    known = theirs._tokenizer
    assert _tokenizer.vocab == dict(known.vocab) and _tokenizer.inv_vocab == known.inv_vocab
    for text in texts:
        tokens = _tokenizer.tokenize(text)
        assert tokens == known.tokenize(text)
        ids = known.convert_tokens_to_ids(tokens)
        assert _tokenizer.convert_tokens_to_ids(tokens) == ids
        assert _tokenizer.convert_ids_to_tokens(ids) == tokens
        for cleans in (True, False):
            joined = known.convert_tokens_to_string(tokens, cleans)
            assert _tokenizer.convert_tokens_to_string(tokens, cleans) == joined
    assert _tokenizer.vocab_size() == known.vocab_size()


def test_a_tokenizer_of_another_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n猫\n##s\na\n", encoding="utf-8")
    tokenizer = pickle.loads(pickle.dumps(FullTokenizer(path)))
    tokens = tokenizer.tokenize("as 猫猫 狗")
    assert tokens == ["a", "##s", "猫", "猫", "[UNK]"]
    assert tokenizer.convert_tokens_to_ids(tokens) == [6, 5, 4, 4, 1]
    assert tokenizer.convert_tokens_to_string(tokens) == "as 猫 猫 [UNK]"
    with pytest.raises(KeyError):
        tokenizer.convert_tokens_to_ids(["狗"])
    assert tokenizer.tokenize("猫".encode() + b"\xff") == ["猫"]
    with pytest.raises(InputTypeError, match="text: expected str, got int"):
        tokenizer.tokenize(3)
    with pytest.raises(CheckpointError, match="cannot be read"):
        FullTokenizer(tmp_path / "none.txt")


def test_a_tokenizer_that_keeps_case(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nnaive\nNaïve\nA\n##B\n猫\n!\n", encoding="utf-8")
    cased = pickle.loads(pickle.dumps(FullTokenizer(path, do_lower_case=False)))
    text = "Naïve AB猫!b naive"
    assert cased.tokenize(text) == ["Naïve", "A", "##B", "猫", "!", "[UNK]", "naive"]
    assert FullTokenizer(path).tokenize(text) == ["naive", *["[UNK]"], "猫", "!", "[UNK]", "naive"]
