"""Reading vocabularies."""

from __future__ import annotations

from pathlib import Path

from .. import _core
from ..archive import MAX_VOCABULARY
from ..errors import CheckpointError, VocabularyError
from .config_file import read_small

# The vocabulary of Chinese BERT, which all published models use.
PUBLISHED_VOCABULARY = Path(__file__).with_name("vocab.txt")

_SPECIAL = (b"[PAD]", b"[UNK]", b"[CLS]", b"[SEP]")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_vocabulary(path: Path) -> bytes:
    """A vocab.txt's bytes.

    Raises:
        CheckpointError: the file cannot be read.
    """
    return read_small(path, MAX_VOCABULARY)


def tokenizer_of(vocabulary: bytes, name: Path) -> _core.Tokenizer:
    """The tokenizer of a vocabulary.

    Args:
        vocabulary: The vocab.txt's bytes.
        name: The file, for messages.

    Raises:
        VocabularyError: it cannot be used.
    """
    words = vocabulary.splitlines()
    for token in _SPECIAL:
        if words.count(token) > 1:
            raise VocabularyError(f"{token.decode()} occurs {words.count(token)} times", file=name)
    try:
        return _core.Tokenizer(vocabulary)
    except VocabularyError as error:
        mark = " (it begins with a byte order mark)" if vocabulary[:3] == _BYTE_ORDER_MARK else ""
        raise VocabularyError(f"{error.reason}{mark}", file=name) from error


def check_ids(tokenizer: _core.Tokenizer, rows: int, file: Path) -> None:
    """Raise a CheckpointError if the word embedding has too few rows for the vocabulary."""
    if tokenizer.largest_id >= rows:
        raise CheckpointError(
            f"the vocabulary has ids up to {tokenizer.largest_id}, the word embedding only "
            f"{rows} rows",
            file=file,
        )
