"""Trained weights to a model directory that everything else opens."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from ..checkpoints.checkpoint import Checkpoint, empty_model
from ..checkpoints.huggingface import write_huggingface
from ..checkpoints.modelscope import write_modelscope
from ..modeling.clip import half_precision_names
from .towers import stored_names


def write_checkpoint(start: Checkpoint, weights: dict[str, torch.Tensor], directory: Path) -> None:
    """Write a ModelScope model directory, of whose weights linear layers and BERT are float16.

    That is what ModelScope's software computes with. Where the model's images have a mean and
    standard deviation of their own, for which that format has no place, it is one of Hugging
    Face's, in float32.

    Args:
        start: What the training began with: sizes, vocabulary, mean.
        weights: Of a `TrainableClip`, by its names.
        directory: Empty.

    Raises:
        OSError: a file cannot be written.
    """
    named = {
        name: weight.detach().cpu().contiguous() for name, weight in stored_names(weights).items()
    }
    checkpoint = dataclasses.replace(start, weights=named, rounds_to_half=False)
    if (start.mean, start.std) != (Checkpoint.mean, Checkpoint.std):
        write_huggingface(checkpoint, directory)
        return
    halves = half_precision_names(empty_model(start.config))
    named |= {name: named[name].half() for name in halves}
    write_modelscope(checkpoint, directory)
