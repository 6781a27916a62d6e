"""Which files make a checkpoint. Needs no torch."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError

WEIGHTS = "pytorch_model.bin"
VISION_CONFIG = "vision_model_config.json"
TEXT_CONFIG = "text_model_config.json"
VOCABULARY = "vocab.txt"

_MODELSCOPE = (WEIGHTS, VISION_CONFIG, TEXT_CONFIG, VOCABULARY)


def checkpoint_files(directory: Path) -> list[Path]:
    """The files whose content makes the checkpoint in a directory.

    Raises:
        CheckpointError: not a ModelScope model directory; names the files that it lacks.
    """
    missing = [name for name in _MODELSCOPE if not (directory / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{directory}: not a ModelScope model directory: it has no {', '.join(missing)}"
        )
    return [directory / name for name in _MODELSCOPE]
