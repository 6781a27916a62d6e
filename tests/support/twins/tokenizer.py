"""A slow tokenizer in plain Python, which the C tokenizer is compared with.

`csrc/text/tokenizer.c` works in one pass. This one works in steps, and decides about characters
with `str` and `unicodedata` alone.
"""

from __future__ import annotations

import io
import unicodedata

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
MAX_WORD = 200

# First and last code points of the blocks that BERT treats as Chinese characters.
CJK_BLOCKS = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)
# Each is a separate word.
CJK = frozenset(chr(code) for first, last in CJK_BLOCKS for code in range(first, last + 1))


def is_dropped(character: str) -> bool:
    """Whether the character is removed from the text."""
    if unicodedata.category(character) in ("Cc", "Cf"):
        return character not in "\t\n\r"
    return character == "\ufffd"


def is_punctuation(character: str) -> bool:
    """Whether the character is a separate word; in ASCII all but letters, digits and controls."""
    if "!" <= character <= "~":
        return not character.isalnum()
    return unicodedata.category(character).startswith("P")


def spaced_words(text: str) -> list[str]:
    """The words between white space; a Chinese character is a separate word."""
    return "".join(f" {c} " if c in CJK else c for c in text if not is_dropped(c)).split()


def without_accents(words: str) -> str:
    """Lower case (with the final sigma of each word), decomposed, without non-spacing marks.

    White space separates the words. No step looks past it.
    """
    decomposed = unicodedata.normalize("NFD", words.lower())
    return "".join(c for c in decomposed if unicodedata.category(c) != "Mn")


def words(text: str, lower_case: bool = True) -> list[str]:
    """The words that WordPiece splits."""
    folded = " ".join(spaced_words(text))
    if lower_case:
        folded = without_accents(folded)
    return "".join(f" {c} " if is_punctuation(c) else c for c in folded).split()


def read_vocabulary(vocabulary: bytes) -> dict[str, int]:
    """Tokens to line numbers, as text mode reads lines; the last of equal lines counts."""
    lines = io.TextIOWrapper(io.BytesIO(vocabulary), encoding="utf-8", newline=None)
    return {line.strip(): number for number, line in enumerate(lines)}


class Tokenizer:
    """BERT's tokenizer; ValueError where a special token is missing."""

    def __init__(self, vocabulary: bytes) -> None:
        self.ids = read_vocabulary(vocabulary)
        missing = [token for token in SPECIAL_TOKENS if token not in self.ids]
        if missing:
            raise ValueError(f"the vocabulary has no {', '.join(missing)}")

    def pieces(self, word: str) -> list[int]:
        """The ids of the word's tokens; each token is the longest that matches."""
        unknown = [self.ids["[UNK]"]]
        if len(word) > MAX_WORD:
            return unknown
        found = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(len(word), start, -1):
                token_id = self.ids.get(prefix + word[start:end])
                if token_id is not None:
                    break
            else:
                return unknown
            found.append(token_id)
            start = end
        return found

    def encode(
        self, text: str, context_length: int = 52, lower_case: bool = True
    ) -> tuple[list[int], int]:
        """`context_length` ids, and their number before they are cut or padded with zeros."""
        pieces = [token_id for word in words(text, lower_case) for token_id in self.pieces(word)]
        ids = [self.ids["[CLS]"], *pieces[: context_length - 2], self.ids["[SEP]"]]
        return ids + [0] * (context_length - len(ids)), len(pieces) + 2
