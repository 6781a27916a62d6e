"""The tokenizer class of BERT's original code, which cn_clip and ModelScope have, on the C core."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._files import open_file
from .._text import first_line
from ..errors import CheckpointError, InputTypeError


class FullTokenizer:
    """Splits texts into the words of a vocabulary: BERT's basic tokenizer, then WordPiece.

    Attributes:
        vocab: The id of each word.
        inv_vocab: The word of each id.
    """

    def __init__(self, vocab_file: str | os.PathLike[str], do_lower_case: bool = True) -> None:
        """Read a vocabulary.

        Args:
            vocab_file: A vocab.txt.
            do_lower_case: Convert texts to lower case and remove accents, as Chinese-CLIP's
                vocabulary requires.

        Raises:
            CheckpointError: the file cannot be read. VocabularyError: it is not a vocabulary.
        """
        path = Path(vocab_file)
        try:
            with open_file(path) as file:
                content = file.read()
        except OSError as error:
            raise CheckpointError(f"cannot be read: {first_line(error)}", file=path) from error
        self._read(content, do_lower_case)

    def _read(self, vocabulary: bytes, lower_case: bool) -> None:
        self._vocabulary, self._lower_case = vocabulary, lower_case
        self._tokenizer = _core.Tokenizer(vocabulary)
        words = [line.strip() for line in vocabulary.decode().split("\n")]
        if words and not words[-1]:
            words.pop()
        self.vocab = {word: index for index, word in enumerate(words)}
        self.inv_vocab = dict(enumerate(words))

    @classmethod
    def from_vocabulary(cls, vocabulary: bytes, do_lower_case: bool = True) -> FullTokenizer:
        """A tokenizer of a vocab.txt's content.

        Raises:
            VocabularyError: it is not a vocabulary.
        """
        made = cls.__new__(cls)
        made._read(vocabulary, do_lower_case)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_vocabulary, (self._vocabulary, self._lower_case)

    def encode(
        self, texts: Sequence[str], context_length: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Token ids of texts: [CLS], WordPiece, [SEP], cut to the context length, filled with 0.

        Returns:
            int64 [n, context_length], and int64 [n]: how many ids each text had before the cut.

        Raises:
            InputTypeError: a text is not a str; names it.
        """
        return self._tokenizer.encode(texts, context_length, self._lower_case)

    def tokenize(self, text: str | bytes) -> list[str]:
        """The words of a text, `[UNK]` for words that the vocabulary cannot make up.

        Args:
            text: A text, or its UTF-8; bytes that are not UTF-8 are left out.

        Raises:
            InputTypeError: of another type.
        """
        if isinstance(text, bytes):
            text = text.decode("utf-8", "ignore")
        if not isinstance(text, str):
            raise InputTypeError(f"expected str, got {type(text).__name__}", item="text")
        _, lengths = self.encode([text], 2)
        ids, _ = self.encode([text], int(lengths[0]))
        return self.convert_ids_to_tokens(ids[0, 1 : int(lengths[0]) - 1].tolist())

    def convert_tokens_to_ids(self, tokens: Iterable[str]) -> list[int]:
        """The ids of words of the vocabulary.

        Raises:
            KeyError: a word is not in the vocabulary.
        """
        return [self.vocab[token] for token in tokens]

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
        """The words of ids.

        Raises:
            KeyError: an id is not in the vocabulary.
        """
        return [self.inv_vocab[int(index)] for index in ids]

    @staticmethod
    def convert_tokens_to_string(
        tokens: Iterable[str], clean_up_tokenization_spaces: bool = True
    ) -> str:
        """Words as a text, those that `##` continues joined.

        Args:
            tokens: The words.
            clean_up_tokenization_spaces: Remove the space before English punctuation and
                contractions, such as `n't`.
        """
        text = " ".join(tokens).replace(" ##", "").strip()
        if clean_up_tokenization_spaces:
            for spaced, joined in _SPACED.items():
                text = text.replace(spaced, joined)
        return text

    def vocab_size(self) -> int:
        """The number of words."""
        return len(self.vocab)


_SPACED = {f" {end}": end for end in (".", "?", "!", ",")} | {" ' ": "'"}
_SPACED |= {f" {end}": end for end in ("n't", "'m", "'s", "'ve", "'re")}
