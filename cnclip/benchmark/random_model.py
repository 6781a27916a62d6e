"""Models of the published sizes with random weights, for benchmarks without a checkpoint.

They are as fast as trained ones. Making one imports torch.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..archive import SUFFIX
from ..checkpoints.files import VOCABULARY, WEIGHTS
from ..checkpoints.known import KNOWN_MODELS, VOCABULARY_SIZE
from ..convert import convert
from ..errors import InvalidInputError

if TYPE_CHECKING:
    import torch

    from ..modeling.config import ClipConfig


@contextmanager
def random_archive(architecture: str) -> Iterator[Path]:
    """Make the archive of a random model; it is removed when the block ends.

    Args:
        architecture: One of KNOWN_MODELS.

    Raises:
        InvalidInputError: the architecture is unknown.
    """
    with tempfile.TemporaryDirectory(prefix="cnclip-bench-") as directory:
        checkpoint = Path(directory) / architecture
        write_model_directory(architecture, checkpoint)
        archive = Path(directory) / f"{architecture}{SUFFIX}"
        convert(checkpoint, archive)
        (checkpoint / WEIGHTS).unlink()
        yield archive


def write_model_directory(architecture: str, directory: Path) -> None:
    """Write a ModelScope model directory with random weights, the same in every call.

    Args:
        architecture: One of KNOWN_MODELS.
        directory: Created if it does not exist.

    Raises:
        InvalidInputError: the architecture is unknown.
        OSError: the directory cannot be written.
    """
    if architecture not in KNOWN_MODELS:
        known = ", ".join(KNOWN_MODELS)
        raise InvalidInputError(
            f"expected one of {known}, got {architecture!r}", item="architecture"
        )
    import torch

    from ..checkpoints.modelscope import config_files

    config = KNOWN_MODELS[architecture]
    directory.mkdir(parents=True, exist_ok=True)
    (directory / VOCABULARY).write_bytes(vocabulary())
    for name, content in config_files(config).items():
        (directory / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    torch.save({"state_dict": _random_weights(config)}, directory / WEIGHTS)


def _random_weights(config: ClipConfig) -> dict[str, torch.Tensor]:
    """Random weights, named as in published checkpoints."""
    import torch

    from ..modeling.clip import ChineseClip, half_precision_names

    with torch.device("meta"):
        model = ChineseClip(config)
    half = half_precision_names(model)
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, wanted in model.state_dict().items():
        value = torch.empty(wanted.shape)
        if name == "logit_scale":
            value.fill_(4.6)
        elif not wanted.is_floating_point():  # BatchNorm's counter
            value = torch.zeros(wanted.shape, dtype=wanted.dtype)
        elif name.endswith("running_var") or (wanted.ndim == 1 and name.endswith("weight")):
            value.fill_(1)  # norms
        else:
            value.normal_(0, 0.02, generator=generator)
        weights[name] = value.half() if name in half else value
    # Embeddings do not use the pooler, but ModelScope requires it.
    width = model.text_projection.shape[0]
    weights["bert.pooler.dense.weight"] = torch.zeros(width, width).half()
    weights["bert.pooler.dense.bias"] = torch.zeros(width).half()
    return {f"module.{name}": value for name, value in weights.items()}


def vocabulary() -> bytes:
    """Return a vocab.txt of VOCABULARY_SIZE entries, in an order similar to BERT's Chinese one.

    Special entries are followed by lower-case letters, digits and signs, by letters and digits as
    continuations, and by the CJK ideographs from U+4E00.
    """
    entries = [
        "[PAD]",
        *(f"[unused{i}]" for i in range(1, 100)),
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
    ]
    signs = [chr(code) for code in range(0x21, 0x7F) if not chr(code).isupper()]
    entries += signs + [f"##{sign}" for sign in signs if sign.isalnum()]
    first = ord("一")
    entries += [chr(first + i) for i in range(VOCABULARY_SIZE - len(entries))]
    return "".join(f"{entry}\n" for entry in entries).encode()
