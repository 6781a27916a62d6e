"""The model of a run, made of a checkpoint and the options."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import nn

from ..checkpoints.checkpoint import Checkpoint
from ..errors import InvalidInputError
from ..models import read_checkpoint
from .batch import Part
from .distributed import World
from .loader import Inputs
from .lora import add_adapters
from .options import TrainOptions
from .step import Rows, Teacher
from .towers import TrainableClip


def inputs_of(checkpoint: Checkpoint, context_length: int) -> Inputs:
    """A model's preprocessing, texts cut at what it can take at most."""
    config = checkpoint.config
    return Inputs(
        config.vision.resolution,
        checkpoint.mean,
        checkpoint.std,
        checkpoint.vocabulary,
        min(context_length, config.text.max_positions),
    )


def make_model(start: Checkpoint, options: TrainOptions, *, from_scratch: bool) -> TrainableClip:
    """The model with a checkpoint's weights, or random ones, and what is trained of it.

    Raises:
        InvalidInputError: an option that does not go with this model.
        MissingExtraError: peft is not installed.
    """
    model = TrainableClip(start.config, options.text_dropout)
    if from_scratch:
        model.start()
    else:
        model.load_weights(start.weights)
    if options.mask_ratio:
        if not isinstance(start.config.vision.layers, int):
            raise InvalidInputError("mask_ratio: goes with a ViT; this model has a ResNet")
        model.visual.mask_ratio = options.mask_ratio
    if options.grad_checkpointing:
        model.recompute_activations()
    if options.lora_rank:
        add_adapters(model, options)
    elif options.freeze_vision:
        model.visual.requires_grad_(False)
    return model


def wrapped(clip: TrainableClip, options: TrainOptions, world: World) -> nn.Module:
    """The model as it is called: compiled, in DistributedDataParallel, if need be."""
    model: nn.Module = clip
    if options.use_bn_sync and world.size > 1:
        if world.device.type != "cuda":
            raise InvalidInputError("use_bn_sync: torch has it for GPUs only")
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    if options.compile:
        model = torch.compile(model)  # type: ignore[assignment]
    if world.size > 1:
        devices = [world.device] if world.device.type == "cuda" else None
        model = nn.parallel.DistributedDataParallel(model, device_ids=devices)
    return model


def make_teacher(
    options: TrainOptions,
    world: World,
    autocast: Callable[[], contextlib.AbstractContextManager[None]],
) -> tuple[Teacher | None, tuple[Inputs, ...]]:
    """The teacher, if there is to be one, and its preprocessing."""
    if options.teacher_model_name is None:
        return None, ()
    checkpoint = read_checkpoint(options.teacher_model_name)
    model = TrainableClip(checkpoint.config)
    model.load_weights(checkpoint.weights)
    model.eval().requires_grad_(False).to(world.device)

    def rows(part: Part) -> Rows:
        assert part.teacher is not None
        with torch.no_grad(), autocast():
            found: Rows = model(*part.teacher)
        return found

    return Teacher(rows, options.kd_loss_weight), (inputs_of(checkpoint, options.context_length),)
