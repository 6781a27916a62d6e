"""The model of a run: built from a checkpoint, optimized, averaged and written as a checkpoint."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from .._checks import requires_extra
from ..checkpoints.checkpoint import Checkpoint, empty_model
from ..checkpoints.huggingface import write_huggingface
from ..checkpoints.modelscope import write_modelscope
from ..errors import InvalidInputError
from ..modeling.clip import ChineseClip, half_precision_names
from ..modeling.config import ClipConfig
from ..modeling.vit import VisionTransformer, checkpoint_name
from ..models import read_checkpoint
from .loader import Preprocessing
from .options import TrainOptions
from .process import World
from .step import Part, Rows, Teacher

Model = TypeVar("Model", bound=nn.Module)

# Every linear layer of both towers.
LORA_TARGETS = (
    *("in_proj", "out_proj", "c_fc", "c_proj"),
    *("q_proj", "k_proj", "v_proj"),
    *("query", "key", "value", "dense"),
)
_ADAPTER = "default"


def with_context_length(checkpoint: Checkpoint, context_length: int | None) -> Checkpoint:
    """The checkpoint with the option `context_length`; None keeps its own.

    Raises:
        InvalidInputError: the model has fewer positions.
    """
    if context_length is None:
        return checkpoint
    positions = checkpoint.config.text.max_positions
    if context_length > positions:
        reason = f"{context_length} ids, but the model has {positions} positions"
        raise InvalidInputError(reason, item="context_length")
    return dataclasses.replace(checkpoint, max_text_ids=context_length)


def preprocessing_of(checkpoint: Checkpoint) -> Preprocessing:
    """A model's preprocessing."""
    config = checkpoint.config
    return Preprocessing(
        config.vision.resolution,
        checkpoint.mean,
        checkpoint.std,
        checkpoint.vocabulary,
        checkpoint.context_length,
    )


def new_model(config: ClipConfig, text_dropout: float = 0.0) -> ChineseClip:
    """A model without weights.

    A ResNet is made in channels-last order, in which a CPU computes convolutions 1.4 times as fast.
    """
    model = ChineseClip(config, text_dropout)
    if not isinstance(config.vision.layers, int):
        model.visual.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def make_model(start: Checkpoint, options: TrainOptions, *, from_scratch: bool) -> ChineseClip:
    """Make a model with a checkpoint's or random weights, and choose which of them are trained.

    Raises:
        InvalidInputError: an option does not apply to this model.
        MissingExtraError: peft is not installed.
    """
    model = new_model(start.config, options.text_dropout)
    if from_scratch:
        model.initialize()
    else:
        model.load_weights(start.weights)
    if options.mask_ratio:
        if not isinstance(model.visual, VisionTransformer):
            raise InvalidInputError("requires a ViT; this model has a ResNet", item="mask_ratio")
        model.visual.mask_ratio = options.mask_ratio
    if options.grad_checkpointing:
        model.recompute_activations()
    if options.lora_rank:
        _add_adapters(model, options)
    elif options.freeze_vision:
        model.visual.requires_grad_(False)
    return model


def wrap_model(clip: ChineseClip, options: TrainOptions, world: World) -> nn.Module:
    """Compile the model and put it into DistributedDataParallel, where the options ask for it.

    Raises:
        InvalidInputError: `use_bn_sync` is set on a CPU.
    """
    model: nn.Module = clip
    if options.use_bn_sync and world.size > 1:
        if world.device.type != "cuda":
            raise InvalidInputError("requires GPUs", item="use_bn_sync")
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
) -> tuple[Teacher | None, tuple[Preprocessing, ...]]:
    """Open the teacher, if the options name one; returns it and its preprocessing."""
    if options.teacher_model_name is None:
        return None, ()
    checkpoint = read_checkpoint(options.teacher_model_name)
    positions = checkpoint.config.text.max_positions
    if options.context_length is not None:
        length = min(options.context_length, positions)
        checkpoint = with_context_length(checkpoint, length)
    model = new_model(checkpoint.config)
    model.load_weights(checkpoint.weights)
    model.eval().requires_grad_(False).to(world.device)

    def rows(part: Part) -> Rows:
        assert part.teacher is not None
        with torch.no_grad(), autocast():
            computed: Rows = model(*part.teacher)
        return computed

    preprocessing = preprocessing_of(checkpoint)
    return Teacher(rows, options.kd_loss_weight), (preprocessing,)


# --- Optimizer -----------------------------------------------------------------------------------


def make_optimizer(model: nn.Module, options: TrainOptions) -> torch.optim.AdamW:
    """AdamW without decay on norms, biases, vectors and the logit scale (cn_clip's groups)."""
    parameters = [value for value in model.parameters() if value.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": options.wd},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=options.lr,
        betas=(options.beta1, options.beta2),
        eps=options.eps,
    )


def learning_rate(step: int, steps: int, options: TrainOptions) -> float:
    """The rate of a step, counted from 0: a linear warm-up, then half a cosine down to 0."""
    if step < options.warmup:
        return options.lr * (step + 1) / options.warmup
    if options.skip_scheduler:
        return options.lr
    done = (step - options.warmup) / max(1, steps - options.warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done))) * options.lr


class AverageModel(Generic[Model]):
    """A model whose weights are an exponential moving average of another model's."""

    def __init__(self, model: Model, decay: float) -> None:
        """Start with a copy of a model."""
        self.model = copy.deepcopy(model)
        self._decay = decay

    @torch.no_grad()
    def add(self, model: Model, step: int) -> None:
        """Add the weights after a step, counted from 1; the first steps use a smaller decay."""
        decay = min(self._decay, (1 + step) / (10 + step))
        average, newest = self.model.state_dict(), model.state_dict()
        floats = [name for name in newest if newest[name].is_floating_point()]
        torch._foreach_lerp_(
            [average[name] for name in floats], [newest[name] for name in floats], 1 - decay
        )
        for name in newest.keys() - set(floats):
            average[name].copy_(newest[name])


# --- LoRA: low-rank adapters (Hu et al. 2021, arXiv:2106.09685) through peft ---------------------


def _add_adapters(model: ChineseClip, options: TrainOptions) -> None:
    """Add adapters to the linear layers; only they and the logit scale are trained."""
    with requires_extra("lora", "peft"):
        from peft import LoraConfig, inject_adapter_in_model
    pattern = "|".join(LORA_TARGETS)
    tower = "bert" if options.freeze_vision else "(visual|bert)"
    config = LoraConfig(
        r=options.lora_rank,
        lora_alpha=options.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=options.lora_dropout,
        target_modules=rf"{tower}\..*\.({pattern})",
    )
    model.requires_grad_(False)
    inject_adapter_in_model(config, model, adapter_name=_ADAPTER)
    model.logit_scale.requires_grad_(True)


def merged_weights(model: ChineseClip) -> dict[str, torch.Tensor]:
    """The weights with the adapters' updates added, by the names of a model without adapters."""
    from peft.tuners.lora import LoraLayer

    weights = {
        name.replace(".base_layer.", "."): weight
        for name, weight in model.state_dict().items()
        if ".lora_" not in name
    }
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            layer: Any = module
            update = layer.get_delta_weight(_ADAPTER)
            weights[f"{name}.weight"] = weights[f"{name}.weight"] + update
    return {checkpoint_name(name): weight for name, weight in weights.items()}


# --- The written checkpoint ----------------------------------------------------------------------


def write_checkpoint(
    start: Checkpoint,
    weights: dict[str, torch.Tensor],
    directory: Path,
    *,
    normalized_texts: bool = False,
) -> None:
    """Write a ModelScope model directory with linear layers and BERT in float16.

    ModelScope's software computes with these weights in float16. Its format cannot store a mean
    and standard deviation of images: a model whose values differ from CLIP's is written in Hugging
    Face's format, in float32.

    Args:
        start: The checkpoint that the training started from: sizes, vocabulary, mean.
        weights: The `state_dict` of a `ChineseClip`.
        directory: An empty directory.
        normalized_texts: The model was trained on texts of `normalize_text`, which its description
            says.

    Raises:
        OSError: a file cannot be written.
    """
    named = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    checkpoint = dataclasses.replace(
        start, weights=named, rounds_to_half=False, normalized_texts=normalized_texts
    )
    if (start.mean, start.std) != (Checkpoint.mean, Checkpoint.std):
        write_huggingface(checkpoint, directory)
        return
    halves = half_precision_names(empty_model(start.config))
    named |= {name: named[name].half() for name in halves}
    write_modelscope(checkpoint, directory)
