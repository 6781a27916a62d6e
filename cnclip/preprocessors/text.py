"""Normalisation of texts, as Chinese-CLIP was trained, and what a model cannot see of a text."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .. import _core

# Examples and texts in messages are cut to this many characters.
_SHOWN = 40


def normalize_text(text: str) -> str:
    """Lowercase a text and replace curly double quotes with straight ones.

    This equals `cn_clip/eval/data.py`; BERT's Chinese vocabulary lacks curly quotes.
    """
    return text.lower().replace("“", '"').replace("”", '"')


class TextInput(Protocol):
    """The preprocessing of a model."""

    @property
    def tokenizer(self) -> _core.Tokenizer:
        """WordPiece over the model's vocabulary."""

    @property
    def context_length(self) -> int:
        """The ids that the model sees of a text."""


@dataclass
class TextCounts:
    """Counts the texts of which a model sees only a part, or nothing.

    Attributes:
        context_length: The ids that the model sees of a text.
        noun: The word for a text in messages.
        texts: All texts that were counted.
        cut: Texts with more ids than the context length, which are cut there.
        unknown: Texts of unknown characters only: all of them have the same embedding, if they
            are equally long.
        empty: Texts of which nothing is left when the tokenizer has removed spaces and invisible
            characters.
        first: The first text that was cut, unknown or empty, by these names.
    """

    context_length: int = 0
    noun: str = "text"
    texts: int = 0
    cut: int = 0
    unknown: int = 0
    empty: int = 0
    first: dict[str, str] = field(default_factory=dict)

    def add(self, model: TextInput, texts: Sequence[str]) -> None:
        """Count texts, as they are passed to a model.

        Args:
            model: The model's preprocessing.
            texts: Any number; about 1,000 at a time bound the memory.
        """
        self.context_length = model.context_length
        if not texts:
            return
        ids, lengths = model.tokenizer.encode(list(texts), model.context_length)
        self.texts += len(texts)
        for name, which in flags_of(model, ids, lengths).items():
            count = int(which.sum())
            setattr(self, name, getattr(self, name) + count)
            if count:
                self.first.setdefault(name, texts[int(which.argmax())])

    def messages(self) -> list[str]:
        """A line for each kind of text that was found, for people."""
        limit = self.context_length
        kinds = {
            "cut": f"longer than {limit} ids: the model does not see the rest",
            "unknown": "of characters that the model does not know: it cannot tell them apart",
            "empty": "without a visible character: the model sees nothing",
        }
        found = []
        for name, what in kinds.items():
            count = getattr(self, name)
            if count and self.texts == 1:
                found.append(f"the {self.noun} is {what}{self._example(name)}")
            elif count:
                verb = "is" if count == 1 else "are"
                of = f"{count} of {self.texts} {self.noun}s {verb}"
                found.append(f"{of} {what}{self._example(name)}")
        return found

    def _example(self, name: str) -> str:
        text = self.first[name]
        if name == "empty" or (self.texts == 1 and name == "cut"):
            return ""
        shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
        usual = unicodedata.normalize("NFKC", text)
        if name == "unknown" and usual != text and usual.isprintable():
            return f" ({shown!r}; {usual[:_SHOWN]!r} may be known)"
        return "" if self.texts == 1 else f" (such as {shown!r})"


def flags_of(
    model: TextInput, ids: NDArray[np.int64], lengths: NDArray[np.int64]
) -> dict[str, NDArray[np.bool_]]:
    """Whether a model sees a part of each text, or nothing: `cut`, `unknown`, `empty`, bool [n].

    Args:
        model: The model's preprocessing.
        ids: int64 [n, context_length], as `tokenizer.encode` returns them.
        lengths: int64 [n], the ids of each text before the cut.
    """
    # Between [CLS] and [SEP].
    inner = np.minimum(lengths, model.context_length) - 2
    known = (ids[:, 1:] != model.tokenizer.unk_id) & (np.arange(ids.shape[1] - 1) < inner[:, None])
    return {
        "cut": lengths > model.context_length,
        "unknown": (inner > 0) & ~known.any(axis=1),
        "empty": inner == 0,
    }


def count_texts(model: TextInput, texts: Sequence[str], noun: str = "text") -> TextCounts:
    """Count the texts of which a model sees only a part, or nothing: see `TextCounts`."""
    counts = TextCounts(model.context_length, noun)
    for start in range(0, len(texts), 1024):
        counts.add(model, texts[start : start + 1024])
    return counts
