"""The content of `modelscope.models.multi_modal.clip.bert_tokenizer`: tokens of texts."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..checkpoints.vocabulary import read_vocabulary
from ..errors import InvalidInputError


def load_vocab(vocab_file: str | PathLike[str]) -> OrderedDict[str, int]:
    """The ids of the tokens of a `vocab.txt`, which has one per line."""
    return _ids_of(Path(vocab_file).read_bytes())


def _ids_of(vocabulary: bytes) -> OrderedDict[str, int]:
    lines = io.TextIOWrapper(io.BytesIO(vocabulary), encoding="utf-8")
    return OrderedDict((line.strip(), number) for number, line in enumerate(lines))


def convert_by_vocab(vocab: Mapping[Any, Any], items: Iterable[Any]) -> list[Any]:
    """The values of some keys; KeyError if there is none."""
    return [vocab[item] for item in items]


class FullTokenizer:
    """BERT's tokenizer of Chinese-CLIP, which the C core runs.

    Attributes:
        vocab: The ids of tokens.
        inv_vocab: The tokens of ids.
    """

    def __init__(self, vocab_file: str | PathLike[str] | bytes, do_lower_case: bool = True) -> None:
        """Read a vocabulary.

        Args:
            vocab_file: A `vocab.txt`, or its content.
            do_lower_case: Must be true, as it is for Chinese-CLIP.

        Raises:
            VocabularyError: it is not UTF-8, or has no [PAD], [UNK], [CLS] or [SEP].
            InvalidInputError: `do_lower_case` is false.
        """
        if not do_lower_case:
            raise InvalidInputError("only True: cnclip lowers the case", item="do_lower_case")
        if not isinstance(vocab_file, bytes):
            vocab_file = read_vocabulary(Path(vocab_file))
        self._content = vocab_file
        self._tokenizer = _core.Tokenizer(vocab_file)
        self.vocab = _ids_of(vocab_file)
        self.inv_vocab = {number: token for token, number in self.vocab.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._content,)

    def tokenize(self, text: str | bytes) -> list[str]:
        """The tokens of a text, without [CLS] and [SEP]."""
        if isinstance(text, bytes):
            text = text.decode("utf-8", "ignore")
        _, lengths = self._tokenizer.encode([text], 3)
        length = max(int(lengths[0]), 3)
        ids, _ = self._tokenizer.encode([text], length)
        return [self.inv_vocab[number] for number in ids[0, 1 : int(lengths[0]) - 1].tolist()]

    def encode(self, texts: list[str], context_length: int) -> NDArray[np.int64]:
        """Ids of texts, int64 [n, context_length]: [CLS], tokens, [SEP], cut and filled with 0."""
        return self._tokenizer.encode(texts, context_length)[0]

    def convert_tokens_to_ids(self, tokens: Iterable[str]) -> list[int]:
        """The ids of tokens; KeyError for one that is not in the vocabulary."""
        return convert_by_vocab(self.vocab, tokens)

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
        """The tokens of ids; KeyError for an id that is not in the vocabulary."""
        return convert_by_vocab(self.inv_vocab, map(int, ids))

    @staticmethod
    def convert_tokens_to_string(
        tokens: Iterable[str], clean_up_tokenization_spaces: bool = True
    ) -> str:
        """Join tokens: `##` continues a word; spaces before English punctuation are removed."""
        text = " ".join(tokens).replace(" ##", "").strip()
        if clean_up_tokenization_spaces:
            for mark in (".", "?", "!", ","):
                text = text.replace(f" {mark}", mark)
            text = text.replace(" ' ", "'")
            for ending in ("n't", "'m", "'s", "'ve", "'re"):
                text = text.replace(f" {ending}", ending)
        return text

    def vocab_size(self) -> int:
        """The number of tokens."""
        return len(self.vocab)


__all__ = ["FullTokenizer", "convert_by_vocab", "load_vocab"]
