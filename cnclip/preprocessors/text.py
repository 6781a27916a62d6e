"""Normalisation of texts, as Chinese-CLIP's training and evaluation apply it."""

from __future__ import annotations


def normalize_text(text: str) -> str:
    """Lowercase a text and replace curly double quotes with straight ones.

    This equals `cn_clip/eval/data.py`; BERT's Chinese vocabulary lacks curly quotes.
    """
    return text.lower().replace("“", '"').replace("”", '"')
