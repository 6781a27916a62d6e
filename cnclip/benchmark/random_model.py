"""Models of the published sizes with random weights, for benchmarks without a checkpoint.

They are as fast as trained ones. Making one imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .._temporaries import scratch_directory
from ..archive import SUFFIX
from ..checkpoints.files import WEIGHTS
from ..checkpoints.published_sizes import PUBLISHED_SIZES
from ..convert import convert
from ..errors import InvalidInputError

if TYPE_CHECKING:
    import torch

    from ..modeling.config import ClipConfig


@contextmanager
def random_archive(architecture: str) -> Iterator[Path]:
    """Make the archive of a random model; it is removed when the block ends.

    Args:
        architecture: One of PUBLISHED_SIZES.

    Raises:
        InvalidInputError: the architecture is unknown.
    """
    with scratch_directory() as directory:
        checkpoint = directory / architecture
        write_model_directory(architecture, checkpoint)
        archive = directory / f"{architecture}{SUFFIX}"
        convert(checkpoint, archive)
        (checkpoint / WEIGHTS).unlink()
        yield archive


def write_model_directory(architecture: str, directory: Path) -> None:
    """Write a ModelScope model directory with random weights, the same in every call.

    Args:
        architecture: One of PUBLISHED_SIZES.
        directory: Created if it does not exist.

    Raises:
        InvalidInputError: the architecture is unknown.
        OSError: the directory cannot be written.
    """
    if architecture not in PUBLISHED_SIZES:
        known = ", ".join(PUBLISHED_SIZES)
        raise InvalidInputError(
            f"expected one of {known}, got {architecture!r}", item="architecture"
        )
    from ..checkpoints.modelscope import untrained_checkpoint, write_modelscope

    checkpoint = untrained_checkpoint(architecture)
    directory.mkdir(parents=True, exist_ok=True)
    write_modelscope(replace(checkpoint, weights=_random_weights(checkpoint.config)), directory)


def _random_weights(config: ClipConfig) -> dict[str, torch.Tensor]:
    """Random weights, named as in published checkpoints."""
    import torch

    from ..checkpoints.checkpoint import empty_model
    from ..modeling.clip import half_precision_names

    model = empty_model(config)
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
    return weights
