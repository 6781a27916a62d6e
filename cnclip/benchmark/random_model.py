"""Models of the published sizes with random weights: as fast as the real ones, and no good else.

For measuring where no checkpoint is at hand; making one imports torch.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..archive import SUFFIX
from ..checkpoints.files import TEXT_CONFIG, VISION_CONFIG, VOCABULARY, WEIGHTS
from ..convert import convert
from ..errors import InvalidInputError

if TYPE_CHECKING:
    import torch

VOCABULARY_SIZE = 21128


def _vision(
    embed_dim: int, resolution: int, layers: Any, width: int, **more: int
) -> dict[str, Any]:
    return {
        "embed_dim": embed_dim,
        "image_resolution": resolution,
        "vision_layers": layers,
        "vision_width": width,
        **more,
    }


def _text(width: int, layers: int) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY_SIZE,
        "text_hidden_act": "gelu",
        "text_hidden_size": width,
        "text_num_hidden_layers": layers,
        "text_num_attention_heads": width // 64,
        "text_intermediate_size": 4 * width,
        "text_max_position_embeddings": 512,
        "text_type_vocab_size": 2,
        "text_attention_probs_dropout_prob": 0.1,
        "text_hidden_dropout_prob": 0.1,
        "text_initializer_range": 0.02,
    }


# Name: the two configuration files of ModelScope, as Chinese-CLIP publishes the sizes.
ARCHITECTURES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "RN50": (_vision(1024, 224, [3, 4, 6, 3], 64), _text(768, 3)),
    "ViT-B-16": (_vision(512, 224, 12, 768, vision_patch_size=16), _text(768, 12)),
    "ViT-L-14": (_vision(768, 224, 24, 1024, vision_patch_size=14), _text(768, 12)),
    "ViT-L-14-336": (_vision(768, 336, 24, 1024, vision_patch_size=14), _text(768, 12)),
    "ViT-H-14": (
        _vision(1024, 224, 32, 1280, vision_patch_size=14, vision_head_width=80),
        _text(1024, 24),
    ),
}


@contextmanager
def random_archive(architecture: str) -> Iterator[Path]:
    """An archive of a random model in a temporary directory, which goes when the block ends.

    Args:
        architecture: One of ARCHITECTURES.

    Raises:
        InvalidInputError: not one of them.
    """
    with tempfile.TemporaryDirectory(prefix="cnclip-bench-") as directory:
        checkpoint = Path(directory) / architecture
        write_model_directory(architecture, checkpoint)
        archive = Path(directory) / f"{architecture}{SUFFIX}"
        convert(checkpoint, archive)
        (checkpoint / WEIGHTS).unlink()
        yield archive


def write_model_directory(architecture: str, directory: Path) -> None:
    """Write a ModelScope model directory with random weights, the same at every call.

    Args:
        architecture: One of ARCHITECTURES.
        directory: Created if need be.

    Raises:
        InvalidInputError: no such architecture.
        OSError: the directory cannot be written.
    """
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise InvalidInputError(f"architecture: expected one of {known}, got {architecture!r}")
    import torch

    vision, text = ARCHITECTURES[architecture]
    configuration = {
        "framework": "pytorch",
        "task": "multi-modal-embedding",
        "pipeline": {"type": "multi-modal-embedding"},
        "model": {"type": "clip-multi-modal-embedding"},
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / VOCABULARY).write_bytes(vocabulary())
    for name, content in (
        (VISION_CONFIG, vision),
        (TEXT_CONFIG, text),
        ("configuration.json", configuration),
    ):
        (directory / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    torch.save({"state_dict": _random_weights(directory)}, directory / WEIGHTS)


def _random_weights(directory: Path) -> dict[str, torch.Tensor]:
    """Weights for the configuration in `directory`, by the names of published checkpoints."""
    import torch

    from ..checkpoints.modelscope import read_config
    from ..modeling.clip import ChineseClip, half_precision_names

    with torch.device("meta"):
        model = ChineseClip(read_config(directory, pad_id=0))
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
    # Embedding never uses the pooler, but ModelScope wants to find it.
    width = model.text_projection.shape[0]
    weights["bert.pooler.dense.weight"] = torch.zeros(width, width).half()
    weights["bert.pooler.dense.bias"] = torch.zeros(width).half()
    return {f"module.{name}": value for name, value in weights.items()}


def vocabulary() -> bytes:
    """A vocab.txt of VOCABULARY_SIZE entries, laid out much as BERT's Chinese one.

    Special entries, then lower-case letters, digits and signs, the first two as continuations too,
    then the CJK ideographs from U+4E00.
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
