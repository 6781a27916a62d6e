"""The options of a training run: one table for the API, the command line and option files.

Imports no torch: `cnclip --help` reads it.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._checks import requires_extra
from .._encoding import read_text
from .._options import check_options, option
from .._text import first_line
from ..errors import CnclipError, InvalidInputError

logger = logging.getLogger("cnclip")

PRECISIONS = ("fp32", "bf16", "fp16")
# How to treat further candidates that match a query: see loss.py.
DUPLICATES = ("positive", "mask", "negative")
# How images are augmented: see augment.py.
POLICIES = ("none", "photo", "auto", "drawing")
SAMPLING = ("pairs", "images")


@dataclass(frozen=True)
class TrainOptions:
    """Options of `finetune`, with cn_clip's names where it has them.

    Each process trains on `batch_size * accum_freq` pairs per step. `cnclip train --help` describes
    each option. Those with the rule `free` may differ when a run is resumed, since they do not
    change what a step computes.
    """

    max_epochs: int = option(3, "passes over all pairs (or images, see sampling)", min=1, free=True)
    max_steps: int | None = option(None, "total steps, instead of max_epochs", min=1, free=True)
    batch_size: int = option(64, "pairs per process that pass through the towers at once", min=1)
    accum_freq: int = option(
        1,
        "parts of a batch: the loss is exactly that of batch_size x accum_freq pairs, in the "
        "memory of batch_size pairs",
        min=1,
    )
    lr: float = option(5e-5, "maximum learning rate", min=0)
    beta1: float = option(0.9, "beta1 of AdamW", min=0, below=1)
    beta2: float = option(0.98, "beta2 of AdamW", min=0, below=1)
    eps: float = option(1e-6, "epsilon of AdamW", min=0)
    wd: float = option(0.001, "weight decay of matrices", min=0)
    warmup: int = option(100, "steps in which the learning rate rises from 0", min=0)
    skip_scheduler: bool = option(False, "keep the learning rate constant after the warm-up")
    max_grad_norm: float | None = option(None, "clip the gradient to this norm", min=0)
    duplicates: str = option(
        "positive",
        "how to treat an image and a text of different pairs that match, since captions or images "
        "are equal or the data set pairs them: as a match, left out, or as a mismatch like cn_clip",
        choices=DUPLICATES,
    )
    sampling: str = option(
        "pairs",
        "an epoch has every pair once, or every image once with one of its texts",
        choices=SAMPLING,
    )
    rare_texts: float = option(
        0.0,
        "with sampling=images: a text of m images is drawn with weight m ** -rare_texts",
        min=0,
        max=10,
    )
    context_length: int | None = option(
        None,
        "number of ids at which texts are cut, including [CLS] and [SEP]; the trained model keeps "
        "it; by default that of the initial model, 52 of the published ones",
        min=3,
    )
    raw_text: bool = option(
        False, "use texts unchanged, instead of lowercased with straight quotes"
    )
    use_augment: bool = option(False, "augment images with the policy 'photo'")
    augment: str = option("none", "how images are augmented", choices=POLICIES)
    mask_ratio: float = option(
        0.0, "share of an image's patches that training leaves out (FLIP)", min=0, below=1
    )
    freeze_vision: bool = option(False, "train only the text tower")
    text_dropout: float = option(0.1, "dropout in the text tower, as in BERT", min=0, below=1)
    grad_checkpointing: bool = option(
        False, "recompute activations in the backward pass to save memory", free=True
    )
    precision: str = option(
        "fp32",
        "autocast to bf16, or to fp16 on GPUs; weights stay float32",
        choices=PRECISIONS,
    )
    compile: bool = option(False, "compile the model with torch.compile", free=True)
    use_bn_sync: bool = option(False, "synchronize batch norms across processes on GPUs")
    ema_decay: float = option(
        0.0,
        "validate and keep a moving average of the weights with this decay, such as 0.999",
        min=0,
        below=1,
    )
    lora_rank: int = option(0, "train only low-rank adapters of this rank (LoRA)", min=0)
    lora_alpha: float = option(16.0, "scale of LoRA's update, multiplied by 1 / lora_rank")
    lora_dropout: float = option(0.0, "dropout in LoRA's update", min=0, below=1)
    teacher_model_name: str | None = option(
        None, "also learn the similarities of this larger Chinese-CLIP (distillation)"
    )
    kd_loss_weight: float = option(0.5, "weight of the distillation loss", min=0)
    num_workers: int | None = option(
        None, "processes that read images; by default one per core, 8 at most", min=0, free=True
    )
    valid_batch_size: int | None = option(
        None, "batch size in validation; by default batch_size", min=1, free=True
    )
    valid_step_interval: int | None = option(None, "validate after every N steps", min=1, free=True)
    valid_epoch_interval: int = option(
        1, "validate after every N epochs; 0: only at the end", min=0, free=True
    )
    save_step_frequency: int | None = option(
        None, "steps between saved states; by default one every five minutes", min=1, free=True
    )
    log_interval: int = option(10, "steps between lines of the log", min=1, free=True)
    seed: int = option(123, "seed of all random numbers", min=0, max=2**63 - 1)
    device: str = option("gpu", "gpu (the CPU if there is none), cpu, or cuda:N", free=True)

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            InvalidInputError, InputTypeError: a value cannot be used; the error names the option.
        """
        check_options(self)
        if self.use_augment and self.augment == "none":
            object.__setattr__(self, "augment", "photo")
        if self.rare_texts and self.sampling != "images":
            raise InvalidInputError("requires sampling=images", item="rare_texts")
        if self.freeze_vision and self.mask_ratio:
            raise InvalidInputError("requires a trained vision tower", item="mask_ratio")

    def fixed(self) -> dict[str, Any]:
        """The options that may not change when a run is resumed."""
        fixed = (one for one in dataclasses.fields(self) if not one.metadata.get("free"))
        return {one.name: getattr(self, one.name) for one in fixed}

    @classmethod
    def read(cls, path: str | Path) -> dict[str, Any]:
        """Read options from a TOML, YAML or JSON file; a dash in a name is read as an underscore.

        Raises:
            InvalidInputError: the file cannot be read.
            MissingExtraError: YAML without PyYAML.
        """
        file = Path(path)
        try:
            values = _parse(file)
        except CnclipError as error:
            raise error.at(file=path) from error
        except (OSError, ValueError, RecursionError) as error:
            raise InvalidInputError(f"cannot be read: {first_line(error)}", file=path) from error
        if not isinstance(values, Mapping):
            raise InvalidInputError("expected names and values", file=path)
        return {str(name).replace("-", "_"): value for name, value in values.items()}


def _parse(file: Path) -> Any:
    suffix = file.suffix.lower()
    if suffix not in (".toml", ".json", ".yaml", ".yml"):
        expected = "a name that ends in .toml, .yaml or .json"
        raise InvalidInputError(f"cannot be read: expected {expected}")
    text, encoding = read_text(file)
    if encoding.remark is not None:
        logger.warning("%s: %s", file, encoding.remark)
    if suffix == ".toml":
        return tomllib.loads(text)
    return json.loads(text) if suffix == ".json" else _parse_yaml(text)


def _parse_yaml(text: str) -> Any:
    with requires_extra("train", "PyYAML"):
        import yaml
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        fault = getattr(error, "problem", None) or first_line(error)
        line = None if mark is None else mark.line + 1
        raise InvalidInputError(f"cannot be read: {fault}", line=line) from error
