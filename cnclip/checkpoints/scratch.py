"""Checkpoints without weights: sizes and a vocabulary, for training from scratch."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError
from .checkpoint import Checkpoint
from .cn_clip import PUBLISHED_VOCABULARY
from .files import TEXT_CONFIG, VISION_CONFIG, VOCABULARY
from .known import KNOWN_MODELS
from .modelscope import read_config
from .vocabulary import check_ids, read_vocabulary, tokenizer_of


def sizes_of(model: str | Path) -> Checkpoint:
    """A checkpoint without weights.

    Args:
        model: A published model's name in cn_clip, with the published vocabulary; or a
            directory with ModelScope's `vision_model_config.json`, `text_model_config.json` and a
            `vocab.txt`.

    Raises:
        CheckpointError: none of these, or a file is damaged.
        VocabularyError: the vocabulary cannot be used.
    """
    if str(model) in KNOWN_MODELS:
        config, vocabulary = KNOWN_MODELS[str(model)], PUBLISHED_VOCABULARY.read_bytes()
    else:
        directory = Path(model).expanduser()
        names = (VISION_CONFIG, TEXT_CONFIG, VOCABULARY)
        missing = [name for name in names if not (directory / name).is_file()]
        if missing:
            raise CheckpointError(
                f"neither one of {', '.join(KNOWN_MODELS)} nor a directory of sizes: "
                f"missing {', '.join(missing)}",
                file=model,
            )
        vocabulary = read_vocabulary(directory / VOCABULARY)
        tokenizer = tokenizer_of(vocabulary, directory / VOCABULARY)
        config = read_config(directory, tokenizer.pad_id)
        check_ids(tokenizer, config.text.vocab_size, directory)
    return Checkpoint(config, {}, vocabulary, rounds_to_half=True)
