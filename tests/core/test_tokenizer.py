"""The C tokenizer: equal to its Python twin on every code point and string, exact about files."""

from __future__ import annotations

import json
import sys
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cnclip
from cnclip._core import Tokenizer
from tests.support.twins.tokenizer import Tokenizer as Twin

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
SPECIALS = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n"
CODE_POINTS = sys.maxunicode + 1
BATCH = 4096


@cache
def real_vocabulary() -> bytes:
    return (GOLDEN / "tiny-vit" / "vocab.txt").read_bytes()


@cache
def assigned() -> list[str]:
    """Every character that has a meaning: not unassigned, private or a surrogate."""
    unassigned = {"Cn", "Co", "Cs"}
    return [c for c in map(chr, range(CODE_POINTS)) if unicodedata.category(c) not in unassigned]


@cache
def telling() -> tuple[Tokenizer, Twin]:
    """Tokenizers for which next to no word is unknown, so that each character shows in the ids."""
    tokens = [f"{c}\n##{c}\n" for c in assigned() if c.strip()]
    vocabulary = SPECIALS + "".join(tokens).encode()
    return Tokenizer(vocabulary), Twin(vocabulary)


def assert_equal(
    tokenizers: tuple[Tokenizer, Twin],
    texts: list[str],
    context_length: int = 52,
    lower_case: bool = True,
) -> None:
    tokenizer, twin = tokenizers
    ids, lengths = tokenizer.encode(texts, context_length, lower_case)
    for text, row, length in zip(texts, ids.tolist(), lengths.tolist(), strict=True):
        assert (row, length) == twin.encode(text, context_length, lower_case), ascii(text)


def words_of(tokenizer: Tokenizer, text: str, context_length: int = 52) -> list[int]:
    """The ids between [CLS] and [SEP]."""
    ids, lengths = tokenizer.encode([text], context_length)
    return ids[0, 1 : min(lengths[0], context_length) - 1].tolist()


# Equality with ModelScope and with the twin.


def test_golden_answers() -> None:
    texts = json.loads((GOLDEN / "cases" / "texts.json").read_text(encoding="utf-8"))
    expected = np.load(GOLDEN / "tiny-vit.npz")["token_ids"]
    ids, lengths = Tokenizer(real_vocabulary()).encode(texts)
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(np.minimum(lengths, 52), (expected != 0).sum(axis=1))


def test_golden_twin() -> None:
    texts = json.loads((GOLDEN / "cases" / "texts.json").read_text(encoding="utf-8"))
    expected = np.load(GOLDEN / "tiny-vit.npz")["token_ids"].tolist()
    twin = Twin(real_vocabulary())
    assert [twin.encode(text)[0] for text in texts] == expected


@pytest.mark.slow
@pytest.mark.parametrize(("pattern", "lower_case"), [("{}", True), ("a{}b", True), ("a{}b", False)])
def test_every_code_point(pattern: str, lower_case: bool) -> None:
    # White space keeps the words of a batch apart; a batch that differs is looked at one by one.
    tokenizer, twin = telling()
    for start in range(0, CODE_POINTS, BATCH):
        words = [pattern.format(chr(c)) for c in range(start, start + BATCH)]
        text, context_length = " ".join(words), 6 * BATCH
        ids, lengths = tokenizer.encode([text], context_length, lower_case)
        if (ids[0].tolist(), lengths[0]) != twin.encode(text, context_length, lower_case):
            assert_equal((tokenizer, twin), words, lower_case=lower_case)
            pytest.fail(f"words from U+{start:04X} on differ only when they stand together")


@pytest.mark.parametrize("pattern", ["{}Σ", "a{}Σ", "aΣ{}", "aΣ{}b", "\u302e{}\U0001d165"])
def test_neighbours_of_every_character(pattern: str) -> None:
    """What it does to a final sigma before and after it, and to marks that would change places."""
    tokenizer, twin = telling()
    # Ideographs and syllables are all alike; what is special about them is tested elsewhere.
    telling_ones = [c for c in assigned() if unicodedata.category(c) != "Lo"] + [
        "\ud800",
        "中",
        "한",
    ]
    for start in range(0, len(telling_ones), BATCH):
        words = [pattern.format(c) for c in telling_ones[start : start + BATCH]]
        text, context_length = " ".join(words), 8 * BATCH
        ids, lengths = tokenizer.encode([text], context_length)
        if (ids[0].tolist(), lengths[0]) != twin.encode(text, context_length):
            assert_equal((tokenizer, twin), words)
            pytest.fail("words differ only when they stand together")


TRICKY = st.one_of(
    st.sampled_from("aAzZ09 Σσς'.·:-!#"),
    st.sampled_from("\t\n\r\v\x1c\x85\xa0\u2028\u3000\0\ufffd\xad\u200b\u200d\ufeff"),
    st.sampled_from("中文字，。\uf900\U00020000\U0002f800"),
    st.sampled_from("ÉİßŒﬁΐὈΩ\u212a\u037e\u1fef\u2126Ǆ\u0344\u0345"),  # foldings of all kinds
    st.sampled_from("\u0301\u0323\u034f\u0f71\u094d\u302e\u302f\u1b44\U0001d165\U0001d16d"),
    st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3),
    st.characters(min_codepoint=0x1100, max_codepoint=0x11FF),
    st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF, categories=["Cs"]),
    st.characters(categories=["Mn", "Mc", "Me"]),
    st.characters(categories=["Cf", "Cc", "Zs", "Sk", "Lm", "Lt", "Po", "Pd"]),
    st.characters(exclude_categories=[]),
)


@settings(max_examples=300, deadline=None)
@given(st.text(TRICKY, max_size=40))
def test_any_text_with_its_case(text: str) -> None:
    assert_equal(real(), [text], lower_case=False)


@settings(max_examples=1500, deadline=None)
@given(st.text(TRICKY, max_size=40), st.integers(2, 60))
def test_any_text(text: str, context_length: int) -> None:
    assert_equal(telling(), [text], context_length)


@settings(max_examples=500, deadline=None)
@given(st.text(TRICKY, max_size=40))
def test_any_text_with_the_real_vocabulary(text: str) -> None:
    assert_equal(real(), [text])


@cache
def real() -> tuple[Tokenizer, Twin]:
    return Tokenizer(real_vocabulary()), Twin(real_vocabulary())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=12), max_size=8))
def test_texts_do_not_touch_each_other(texts: list[str]) -> None:
    assert_equal(real(), texts)


# Rules worth their own name.


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ΑΣ", "α ##ς"),
        ("ΑΣΑ", "α ##σ ##α"),
        ("Σ", "σ"),
        ("ΑΣ中Α", "α ##ς 中 α"),  # the word ends at a Chinese character
        ("Α.Σ.Α", "α . σ . α"),  # but not at a full stop, though the full stop splits it later
        ("Α.Σ", "α . ς"),
        ("a\u302e\U0001d165", "a ##\U0001d165 ##\u302e"),
        ("a\u302e\u034f\U0001d165", "a ##\u302e ##\U0001d165"),
        ("a\vb", "a ##b"),  # dropped as a control character before anything is split
        ("a\u2028b", "a b"),
        ("a\u037eb", "a ; b"),  # punctuation by decomposition only
        ("İ", "i"),
        ("각", "\u1100 ##\u1161 ##\u11a8"),
    ],
)
def test_rule(text: str, words: str) -> None:
    tokenizer, twin = telling()
    assert words_of(tokenizer, text) == [twin.ids[word] for word in words.split()]


@pytest.mark.parametrize(
    "filler", ["a", "中", "\u302e", "\u0301", "é", "!", "각", "\U0001d165\u302e"]
)
@pytest.mark.parametrize("count", [66, 67, 99, 100, 101, 199, 200, 201, 202, 1000])
def test_long_words(filler: str, count: int) -> None:
    assert_equal(telling(), [filler * count, f"b{filler * count} c", f"{filler * count}中d"], 1300)


@pytest.mark.parametrize("context_length", [2, 3, 4, 5, 51, 52, 53, 512])
def test_context_length(context_length: int) -> None:
    texts = ["", "中", "一二三四五", "unaffable words " * 100, "x" * 300 + "中" * 60]
    assert_equal(real(), texts, context_length)
    ids, _ = real()[0].encode(texts, context_length)
    whole, _ = real()[0].encode(texts, 4096)
    assert ids.shape == (len(texts), context_length)
    np.testing.assert_array_equal(ids[:, : context_length - 1], whole[:, : context_length - 1])


# Hours, if the time grew with the square of the length.
@pytest.mark.parametrize(
    "text",
    [
        "x" * 2_000_000,
        "x " * 1_000_000,
        "中" * 2_000_000,
        "\u0301" * 2_000_000,
        "\u302e\U0001d165" * 1_000_000,
        ("\u302e" * 99 + "\U0001d165" * 99 + " ") * 10_000,
        "aΣ" * 1_000_000,
        "Σ" + "'" * 2_000_000,
        ("Σ" + "'" * 1000) * 2_000,
        "Σ" + "\xad" * 2_000_000,
        "\0" * 2_000_000,
        "각" * 2_000_000,
    ],
    ids=lambda text: ascii(text[:3]),
)
def test_long_texts(text: str) -> None:
    start = time.perf_counter()
    ids, lengths = real()[0].encode([text])
    assert time.perf_counter() - start < 10
    assert ids[0, min(lengths[0], 52) - 1] == real()[0].sep_id


# The vocabulary's file.


@pytest.mark.parametrize(
    "vocabulary",
    [
        SPECIALS + b"a\nb\nc\n",
        SPECIALS + b"a\nb\nc",
        SPECIALS.replace(b"\n", b"\r\n") + b"a\r\nb\r\n",
        SPECIALS.replace(b"\n", b"\r") + b"a\rb\r",
        SPECIALS + b"a\n\rb\r\r\nc\n",
        SPECIALS + b"a\nb\na\nc\nb\n",
        SPECIALS + b"\n\na\n\n \t\nb\n\n\n",
        SPECIALS + b" a\t\n\x1cb\x1f\n\xe3\x80\x80c\xc2\x85\n\xe2\x80\xa8##b\n",
        SPECIALS + b"\0\na\0\nb\0b\na\n",
        b"\xef\xbb\xbfa\n" + SPECIALS + b"a\n",
        b"a\n[SEP]\nb\n[CLS]\n##b\n[UNK]\n##c\n[PAD]\n",
        SPECIALS + b"##\n#\n##a\n###\na\n",
        SPECIALS + b"a b\na\n" + "中文\n中\n##é\né\n".encode(),
        SPECIALS + b"a" * 200 + b"\n##" + b"a" * 199 + b"\na" + b"a" * 300 + b"\na\n##a\n",
    ],
)
def test_vocabulary_is_read_as_python_reads_it(vocabulary: bytes) -> None:
    tokenizer, twin = Tokenizer(vocabulary), Twin(vocabulary)
    texts = ["a", "b", "c", "ab", "abc", "aabb", "a#b##c", "a b", "中文", "é", "a" * 200, "a" * 199]
    assert_equal((tokenizer, twin), texts, 300)
    assert_attributes(tokenizer, twin)


def assert_attributes(tokenizer: Tokenizer, twin: Twin) -> None:
    specials = (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id)
    assert specials == tuple(twin.ids[token] for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]"))
    assert tokenizer.largest_id == max(number for token, number in twin.ids.items() if token)
    assert tokenizer.size == max(twin.ids.values()) + 1


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.text(st.sampled_from("ab#中 \t\r\n\x1c\x85\u2028\0é\U0001f600"), max_size=6)),
    st.sampled_from(["\n", "\r", "\r\n"]),
)
def test_any_vocabulary(tokens: list[str], newline: str) -> None:
    # newline.join, not text mode, so that the tokens' own line ends count too.
    vocabulary = newline.join([*SPECIALS.decode().split(), *tokens]).encode()
    tokenizer, twin = Tokenizer(vocabulary), Twin(vocabulary)
    assert_attributes(tokenizer, twin)
    assert_equal((tokenizer, twin), ["a", "ab", "ba", "abab", "#", "中a", "aa\0b", "\U0001f600"])


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from([bytes([b]) for b in range(0x80, 0x100)] + [b"a", b"\n"])))
def test_utf8_is_read_as_strictly_as_python_reads_it(parts: list[bytes]) -> None:
    vocabulary = SPECIALS + b"".join(parts)
    try:
        vocabulary.decode()
    except UnicodeDecodeError as error:
        line = vocabulary[: error.start].count(b"\n") + 1
        with pytest.raises(cnclip.errors.VocabularyError, match=rf"line {line}\b"):
            Tokenizer(vocabulary)
    else:
        assert Tokenizer(vocabulary).size == len(vocabulary.splitlines())


@pytest.mark.parametrize(
    "bad",
    [b"\x80", b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe4\xb8"],
)
def test_bytes_that_are_not_utf8(bad: bytes) -> None:
    with pytest.raises(cnclip.errors.VocabularyError, match=r"line 6\b"):
        Tokenizer(SPECIALS.replace(b"\n", b"\r\n") + b"a\r" + bad + b"\nb\n")


@pytest.mark.parametrize("missing", SPECIALS.decode().split())
def test_missing_special_token(missing: str) -> None:
    vocabulary = SPECIALS.replace(missing.encode(), missing.lower().encode())
    with pytest.raises(cnclip.errors.VocabularyError) as caught:
        Tokenizer(vocabulary)
    assert missing in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("vocabulary", [b"", b"\n\n", b"\xef\xbb\xbf" + SPECIALS])
def test_useless_vocabulary(vocabulary: bytes) -> None:
    with pytest.raises(cnclip.errors.VocabularyError, match=r"\[PAD\]"):
        Tokenizer(vocabulary)


def test_large_vocabularies() -> None:
    assert Tokenizer(SPECIALS + b"x" * 20_000_000).size == 5
    assert Tokenizer(SPECIALS + b"\n" * 5_000_000).size == 5_000_004
    assert Tokenizer(SPECIALS + b"x\n" * 500_000).largest_id == 500_003


# The binding.


def test_shapes_and_types() -> None:
    tokenizer = real()[0]
    ids, lengths = tokenizer.encode(["中文", "a"])
    assert (ids.shape, ids.dtype, lengths.shape, lengths.dtype) == ((2, 52), "int64", (2,), "int64")
    ids, lengths = tokenizer.encode([], context_length=7)
    assert (ids.shape, ids.dtype, lengths.shape, lengths.dtype) == ((0, 7), "int64", (0,), "int64")


def test_sequences_and_subclasses_of_str() -> None:
    class Title(str):
        """As libraries that mark safe strings have it."""

        __slots__ = ()

    tokenizer = real()[0]
    expected = tokenizer.encode(["中文", "a"])
    for texts in (("中文", "a"), [Title("中文"), Title("a")]):
        for array, other in zip(tokenizer.encode(texts), expected, strict=True):
            np.testing.assert_array_equal(array, other)


@pytest.mark.parametrize("item", [None, 3, b"bytes", ["nested"]])
def test_items_that_are_no_text(item: object) -> None:
    with pytest.raises(TypeError, match="1"):
        real()[0].encode(["a", item])  # type: ignore[list-item]


@pytest.mark.parametrize("context_length", [1, 0, -1, -(2**62)])
def test_context_without_room(context_length: int) -> None:
    with pytest.raises(ValueError, match="context_length"):
        real()[0].encode(["a"], context_length)


def test_many_threads_share_a_tokenizer() -> None:
    tokenizer = real()[0]
    batches = [[f"第{i}件商品 Brand{i} ΑΣ É" + "字" * (i % 70)] * 50 for i in range(64)]
    expected = [tokenizer.encode(batch) for batch in batches]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(5):
            for got, want in zip(threads.map(tokenizer.encode, batches), expected, strict=True):
                np.testing.assert_array_equal(got[0], want[0])
                np.testing.assert_array_equal(got[1], want[1])
