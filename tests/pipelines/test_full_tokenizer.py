"""`FullTokenizer`, with the interface of BERT's and ModelScope's."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from cnclip.errors import CheckpointError, InputTypeError
from cnclip.preprocessors.full_tokenizer import FullTokenizer

VOCABULARY = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n猫\n狗\ncat\n##s\nCat"


@pytest.fixture
def tokenizer(tmp_path: Path) -> FullTokenizer:
    (tmp_path / "vocab.txt").write_text(VOCABULARY, encoding="utf-8")
    return FullTokenizer(tmp_path / "vocab.txt")


def test_words_and_ids(tokenizer: FullTokenizer) -> None:
    words = tokenizer.tokenize("猫 Cats 鱼")
    assert words == ["猫", "cat", "##s", "[UNK]"]
    assert tokenizer.tokenize("猫 Cats 鱼".encode() + b"\xff") == words
    ids = tokenizer.convert_tokens_to_ids(words)
    assert ids == [5, 7, 8, 1] and tokenizer.convert_ids_to_tokens(ids) == words
    assert tokenizer.vocab_size() == 10 == len(tokenizer.inv_vocab)
    with pytest.raises(KeyError):
        tokenizer.convert_tokens_to_ids(["鱼"])
    with pytest.raises(InputTypeError, match="text: expected str, got int"):
        tokenizer.tokenize(5)  # type: ignore[arg-type]


def test_a_last_line_that_ends_is_no_word(tmp_path: Path) -> None:
    for end in ("", "\n"):
        (tmp_path / "vocab.txt").write_text(VOCABULARY + end, encoding="utf-8")
        assert FullTokenizer(tmp_path / "vocab.txt").vocab_size() == 10


def test_words_become_a_text(tokenizer: FullTokenizer) -> None:
    words = ["the", "cat", "##s", "do", "n't", "run", ",", "it", "'s", "fine", "."]
    joined = "the cats do n't run , it 's fine ."
    assert tokenizer.convert_tokens_to_string(words, False) == joined
    assert tokenizer.convert_tokens_to_string(words) == "the cats don't run, it's fine."


@pytest.mark.parametrize("lower", [True, False])
def test_a_pickle_is_the_same_tokenizer(tmp_path: Path, lower: bool) -> None:
    (tmp_path / "vocab.txt").write_text(VOCABULARY, encoding="utf-8")
    tokenizer = FullTokenizer(tmp_path / "vocab.txt", do_lower_case=lower)
    copied = pickle.loads(pickle.dumps(tokenizer))
    assert copied.vocab == tokenizer.vocab
    assert copied.tokenize("Cat") == tokenizer.tokenize("Cat") == ["cat" if lower else "Cat"]


def test_a_vocabulary_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"vocab\.txt: cannot be read: No such file"):
        FullTokenizer(tmp_path / "vocab.txt")
