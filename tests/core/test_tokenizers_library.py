"""The C tokenizer and BERT's of Hugging Face's `tokenizers`: equal, but for what is named here.

`FullTokenizer` of ModelScope, which cnclip follows, decides by Python's `unicodedata` and
`str.lower`. `tokenizers` differs in these points:

- a capital sigma at the end of a word is lower-cased without its place: σ and not ς;
- characters for private use are dropped, as control characters are;
- its tables are of an older Unicode: newer marks are kept, newer punctuation does not split words;
- U+2B820 to U+2B91F, in CJK extension E, are not split as Chinese characters.
"""

from __future__ import annotations

import sys
import unicodedata
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnclip._core import Tokenizer

library = pytest.importorskip("tokenizers", reason="tokenizers is not installed")

LENGTH = 1024
OLD = unicodedata.ucd_3_2_0
BATCH = 4096


def is_old(character: str) -> bool:
    """Whether a character has been in Unicode since 2002, in the category that it has now.

    Private ones are not among them.
    """
    category = unicodedata.category(character)
    return category not in ("Cn", "Co", "Cs") and category == OLD.category(character)


@cache
def old_characters() -> list[str]:
    return [c for c in map(chr, range(sys.maxunicode + 1)) if is_old(c)]


@cache
def both() -> tuple[Tokenizer, Any]:
    """Tokenizers whose vocabulary has every character, so that each shows in the ids."""
    words = [word for c in old_characters() if c.strip() for word in (c, f"##{c}")]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]
    model = library.models.WordPiece(
        {token: number for number, token in enumerate(tokens)},
        unk_token="[UNK]",
        max_input_chars_per_word=200,
    )
    theirs = library.Tokenizer(model)
    theirs.normalizer = library.normalizers.BertNormalizer()
    theirs.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    return Tokenizer("\n".join(tokens).encode()), theirs


def ids_of(texts: list[str]) -> tuple[list[list[int]], list[list[int]]]:
    """The ids of texts without [CLS] and [SEP], ours and theirs."""
    ours, theirs = both()
    ids, lengths = ours.encode(texts, LENGTH)
    assert max(lengths) <= LENGTH
    found = [row[1 : length - 1] for row, length in zip(ids.tolist(), lengths, strict=True)]
    encoded = theirs.encode_batch(texts, add_special_tokens=False)
    return found, [one.ids for one in encoded]


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["{}", "a{}b"])
def test_characters(pattern: str) -> None:
    differing = set()
    characters = old_characters()
    for start in range(0, len(characters), BATCH):
        some = characters[start : start + BATCH]
        ours, theirs = ids_of([pattern.format(c) for c in some])
        differing |= {c for c, one, other in zip(some, ours, theirs, strict=True) if one != other}
    assert len(characters) > 90_000
    assert not differing, sorted(map(ascii, differing))


CHARACTERS = st.one_of(
    st.sampled_from("aAzZ09 'ßİÉſǅﬁ.,:-!#[]\t\n\x0b\x85\xa0\u2028\u3000\0\ufffd\xad\u200b"),
    st.sampled_from("中文字，。\uf900\U00020000\U0002f800각힣\u1100\u1161\u11a8"),
    st.sampled_from("\u0301\u0323\u034f\u0f71\u094d\u302e\u302f\U0001d165\U0001d16d\u0344\u0345"),
    st.characters().filter(is_old),
)


@settings(max_examples=500, deadline=None)
@given(st.text(CHARACTERS, max_size=60))
def test_texts(text: str) -> None:
    ours, theirs = ids_of(
        [text.replace("Σ", "σ")]
    )  # a final one is the difference that is named above
    assert ours == theirs


def test_long_words() -> None:
    ours, theirs = ids_of(["x" * count for count in (1, 199, 200, 201, 300)])
    assert ours == theirs


def test_a_final_sigma() -> None:
    """Python's rule, and so ModelScope's; `tokenizers` has none."""
    tokenizer, _ = both()
    ids, _ = tokenizer.encode(["ΑΣ", "ας", "ΑΣΑ", "ασα"], 8)
    assert (ids[0] == ids[1]).all()
    assert (ids[2] == ids[3]).all()


def test_extension_e_is_split() -> None:
    tokenizer, _ = both()
    ids, lengths = tokenizer.encode(["a\U0002b820b", "a \U0002b820 b"], 8)
    assert lengths.tolist() == [5, 5]
    assert (ids[0] == ids[1]).all()
