"""What can be asked of a training run: one table, which the command line and files are made of.

Imports no torch: `cnclip --help` reads it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputTypeError, InvalidInputError, MissingExtraError

PRECISIONS = ("fp32", "bf16", "fp16")
# What candidates are that belong to a query beside the one it was drawn with: see loss.py.
DUPLICATES = ("positive", "mask", "negative")
# How images are augmented: see augment.py.
POLICIES = ("none", "photo", "drawing")
SAMPLING = ("pairs", "images")


def _option(default: Any, what: str, **more: Any) -> Any:
    """A field with the words that help prints; more: `choices`, `least`, `most`, `below`.

    `free`: it may differ when a run is resumed, since it does not change what a step computes.
    """
    return field(default=default, metadata={"help": what, **more})


@dataclass(frozen=True)
class TrainOptions:
    """Options of `finetune`, under cn_clip's names where it has them.

    A batch has `batch_size * accum_freq` pairs a process. `--help` of `cnclip train` says what each
    option does; `help_of` has the same words.
    """

    max_epochs: int = _option(
        3, "times that all pairs (or images, see sampling) are seen", least=1, free=True
    )
    max_steps: int | None = _option(
        None, "steps in all, in place of max_epochs", least=1, free=True
    )
    batch_size: int = _option(64, "pairs that go through the towers at once, a process", least=1)
    accum_freq: int = _option(
        1,
        "parts of a batch: the loss is that of batch_size x accum_freq pairs, exactly, in the "
        "memory of batch_size",
        least=1,
    )
    lr: float = _option(5e-5, "the largest learning rate", least=0)
    beta1: float = _option(0.9, "AdamW's", least=0, below=1)
    beta2: float = _option(0.98, "AdamW's", least=0, below=1)
    eps: float = _option(1e-6, "AdamW's", least=0)
    wd: float = _option(0.001, "weight decay, of matrices only", least=0)
    warmup: int = _option(100, "steps in which the learning rate rises from 0", least=0)
    skip_scheduler: bool = _option(False, "keep the learning rate after the warm-up")
    max_grad_norm: float | None = _option(None, "clip the gradient's norm to this", least=0)
    duplicates: str = _option(
        "positive",
        "pairs of a batch with equal captions or images, or of which the data set tells that "
        "they belong together: right answers for each other, left out, or wrong ones as in cn_clip",
        choices=DUPLICATES,
    )
    sampling: str = _option(
        "pairs",
        "what an epoch has once: every pair, or every image with one of its texts",
        choices=SAMPLING,
    )
    rare_texts: float = _option(
        0.0,
        "with sampling=images: a text that describes m images is drawn with a weight of m to "
        "the power of minus this",
        least=0,
        most=10,
    )
    context_length: int = _option(52, "ids that a text is cut at, [CLS] and [SEP] counted", least=3)
    raw_text: bool = _option(
        False, "leave texts as they are; else they get lower case and straight quotes"
    )
    use_augment: bool = _option(False, "augment images with the policy 'photo'")
    augment: str = _option("none", "how images are augmented", choices=POLICIES)
    mask_ratio: float = _option(
        0.0, "share of an image's patches that is left out in training (FLIP)", least=0, below=1
    )
    freeze_vision: bool = _option(False, "train the text tower alone")
    text_dropout: float = _option(0.1, "in the text tower, as BERT's", least=0, below=1)
    grad_checkpointing: bool = _option(
        False, "compute activations again in the backward pass, to save memory", free=True
    )
    precision: str = _option(
        "fp32",
        "autocast: bf16, or fp16 on GPUs; weights stay float32",
        choices=PRECISIONS,
    )
    compile: bool = _option(False, "compile the model with torch.compile", free=True)
    use_bn_sync: bool = _option(False, "batch norms across processes, on GPUs")
    ema_decay: float = _option(
        0.0,
        "validate and keep an average of the weights with this decay, such as 0.999",
        least=0,
        below=1,
    )
    lora_rank: int = _option(0, "train low-rank adapters of this rank alone (LoRA)", least=0)
    lora_alpha: float = _option(16.0, "what LoRA's update is multiplied by, divided by its rank")
    lora_dropout: float = _option(0.0, "in LoRA's update", least=0, below=1)
    teacher_model_name: str | None = _option(
        None, "distil from this model, a larger Chinese-CLIP, too"
    )
    kd_loss_weight: float = _option(0.5, "of the loss of distillation", least=0)
    num_workers: int | None = _option(
        None, "processes that read images; by default one a core, 8 at most", least=0, free=True
    )
    valid_batch_size: int | None = _option(
        None, "in validation; by default batch_size", least=1, free=True
    )
    valid_step_interval: int | None = _option(
        None, "validate every so many steps", least=1, free=True
    )
    valid_epoch_interval: int = _option(
        1, "validate every so many epochs; 0: never", least=0, free=True
    )
    save_step_frequency: int | None = _option(
        None,
        "steps between checkpoints; by default what takes about five minutes",
        least=1,
        free=True,
    )
    log_interval: int = _option(10, "steps between lines of the log", least=1, free=True)
    seed: int = _option(123, "of everything random", least=0, most=2**63 - 1)
    device: str = _option("gpu", "gpu (else the CPU), cpu, or cuda:N", free=True)

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            InvalidInputError, InputTypeError: name the option.
        """
        for one in dataclasses.fields(self):
            object.__setattr__(self, one.name, _checked(one, getattr(self, one.name)))
        if self.use_augment and self.augment == "none":
            object.__setattr__(self, "augment", "photo")
        if self.rare_texts and self.sampling != "images":
            raise InvalidInputError("rare_texts: goes with sampling=images")
        if self.freeze_vision and self.mask_ratio:
            raise InvalidInputError("mask_ratio: goes with a vision tower that is trained")

    def fixed(self) -> dict[str, Any]:
        """The options that a run keeps when it is resumed."""
        fields = (one for one in dataclasses.fields(self) if not one.metadata.get("free"))
        return {one.name: getattr(self, one.name) for one in fields}

    @classmethod
    def read(cls, path: str | Path) -> dict[str, Any]:
        """Options from a TOML, YAML or JSON file; a dash in a name is an underscore.

        Raises:
            InvalidInputError: it cannot be read, or has an unknown option.
            MissingExtraError: YAML without PyYAML.
        """
        file = Path(path)
        try:
            values = _parse(file)
        except (OSError, ValueError, RecursionError) as error:
            raise InvalidInputError(f"{path}: cannot be read: {error}") from error
        if not isinstance(values, Mapping):
            raise InvalidInputError(f"{path}: expected names and values")
        return {str(name).replace("-", "_"): value for name, value in values.items()}


def _parse(file: Path) -> Any:
    if file.suffix.lower() == ".toml":
        return tomllib.loads(file.read_text(encoding="utf-8"))
    if file.suffix.lower() == ".json":
        return json.loads(file.read_text(encoding="utf-8"))
    if file.suffix.lower() not in (".yaml", ".yml"):
        raise ValueError("expected a name that ends in .toml, .yaml or .json")
    try:
        import yaml
    except ImportError as error:
        raise MissingExtraError("train", "PyYAML") from error
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def type_of(name: str) -> tuple[type, bool]:
    """An option's type, and whether it may be None."""
    hint = typing.get_type_hints(TrainOptions)[name]
    if isinstance(hint, types.UnionType):
        kind = next(part for part in typing.get_args(hint) if part is not type(None))
        return kind, True
    return hint, False


def _checked(one: dataclasses.Field[Any], value: Any) -> Any:
    kind, optional = type_of(one.name)
    if value is None and optional:
        return None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is float and isinstance(value, str):  # YAML takes 5e-5 for a string
        with contextlib.suppress(ValueError):
            value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InputTypeError(f"{one.name}: expected {kind.__name__}, got {value!r:.60}")
    rules = one.metadata
    if "choices" in rules and value not in rules["choices"]:
        raise InvalidInputError(
            f"{one.name}: expected one of {', '.join(rules['choices'])}, got {value!r:.60}"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInputError(f"{one.name}: expected a finite number, got {value}")
    if "least" in rules and value < rules["least"]:
        raise InvalidInputError(f"{one.name}: expected {rules['least']} or more, got {value}")
    if "most" in rules and value > rules["most"]:
        raise InvalidInputError(f"{one.name}: expected {rules['most']} or less, got {value}")
    if "below" in rules and value >= rules["below"]:
        raise InvalidInputError(f"{one.name}: expected less than {rules['below']}, got {value}")
    return value
