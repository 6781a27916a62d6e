"""The content of `modelscope.models.multi_modal.clip.bert_tokenizer`: tokens of texts."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any

from .._files import open_file
from ..preprocessors.full_tokenizer import FullTokenizer


def load_vocab(vocab_file: str | PathLike[str]) -> OrderedDict[str, int]:
    """The ids of the tokens of a `vocab.txt`, which has one per line."""
    with io.TextIOWrapper(open_file(vocab_file), encoding="utf-8") as lines:
        return OrderedDict((line.strip(), number) for number, line in enumerate(lines))


def convert_by_vocab(vocab: Mapping[Any, Any], items: Iterable[Any]) -> list[Any]:
    """The values of some keys; KeyError if there is none."""
    return [vocab[item] for item in items]


__all__ = ["FullTokenizer", "convert_by_vocab", "load_vocab"]
