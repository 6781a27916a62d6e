"""Vocabularies, whose errors name the file."""

from __future__ import annotations

from pathlib import Path

from .. import _core
from ..errors import CheckpointError, VocabularyError


def read_vocabulary(path: Path) -> bytes:
    """A vocab.txt's bytes.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error


def tokenizer_of(vocabulary: bytes, name: Path) -> _core.Tokenizer:
    """The tokenizer of a vocabulary.

    Args:
        vocabulary: The vocab.txt's bytes.
        name: Begins messages.

    Raises:
        VocabularyError: it cannot be used.
    """
    try:
        return _core.Tokenizer(vocabulary)
    except VocabularyError as error:
        raise VocabularyError(f"{name}: {error}") from error
