"""What a configuration of ModelScope's trainer means for `cnclip.train`."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .._checks import check_integer
from ..errors import InputTypeError, InvalidInputError
from ..train.options import TrainOptions

# The optimizer's settings that ModelScope's trainer has for models of its hub, where the
# configuration has none.
_PAPER = {"lr": 5e-4, "beta1": 0.9, "beta2": 0.98, "eps": 1e-6, "weight_decay": 0.0}
_USUAL = _PAPER | {"beta2": 0.999, "eps": 1e-8}
_BASE = "damo/multi-modal_clip-vit-base-patch16_zh"
_LARGE = (
    "damo/multi-modal_clip-vit-large-patch14_zh",
    "damo/multi-modal_clip-vit-large-patch14_336_zh",
)
# Parts of a configuration that describe the model and the data, and not the training.
_DESCRIPTIONS = (
    *("framework", "task", "pipeline", "model", "pretrained_model", "preprocessor", "dataset"),
    *("plugins", "version", "log_level", "allow_remote", "cnclip"),
)
# Hooks for what `cnclip.train` always does.
_BUILT_IN = (
    *("IterTimerHook", "ClipClampLogitScaleHook", "LrSchedulerHook", "OptimizerHook"),
    *("TorchAMPOptimizerHook", "TensorboardHook", "DDPHook"),
)
# Where newer configurations have the settings of a hook.
_PLACES = {
    "train.logging": "TextLoggerHook",
    "train.checkpoint.period": "CheckpointHook",
    "train.checkpoint.best": "BestCkptSaverHook",
    "evaluation.period": "EvaluationHook",
}


@dataclass
class Period:
    """How often something is done: after every so many epochs or steps."""

    interval: int
    by_epoch: bool

    def steps(self, steps_per_epoch: int) -> int:
        """In steps."""
        return self.interval * steps_per_epoch if self.by_epoch else self.interval


@dataclass
class TrainingSettings:
    """The settings of a run.

    Attributes:
        max_epochs: Passes over the pairs.
        batch_size: Pairs of a process that the towers take at once.
        drop_last: The last pairs of an epoch, fewer than a batch, are left out.
        accumulate: Batches of a step.
        warmup_proportion: Share of the steps in which the learning rate rises.
        options: Fields of `TrainOptions` that do not depend on the number of pairs.
        evaluations: When recall is measured, by the most frequent; empty: never in training.
        saving: When the state is saved; None: as `cnclip.train` does.
        keeps_best: The best weights are also written to `output_best`.
        eval_batch_size: Pairs of a batch of the evaluation.
        eval_drop_last: As `drop_last`, in the evaluation.
        image: The column of images; None for the data set's own.
        text: The column of texts; None for the data set's own.
        work_dir: Where the run is written, by the configuration.
        ignored: Settings that are not used.
    """

    max_epochs: int = 1
    batch_size: int = 64
    drop_last: bool = False
    accumulate: int = 1
    warmup_proportion: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    evaluations: list[Period] = field(default_factory=list)
    saving: Period | None = None
    keeps_best: bool = False
    eval_batch_size: int = 64
    eval_drop_last: bool = False
    image: str | None = None
    text: str | None = None
    work_dir: str = "./work_dir"
    ignored: list[str] = field(default_factory=list)

    def train_options(self, pairs: int, processes: int) -> TrainOptions:
        """The options for a number of pairs, which several processes share."""
        batch = min(self.batch_size, max(1, pairs // processes))
        per_epoch = self._batches(pairs, batch * processes)
        steps = max(1, self.max_epochs * per_epoch // self.accumulate)
        values: dict[str, Any] = {
            "batch_size": batch,
            "accum_freq": self.accumulate,
            "max_epochs": self.max_epochs,
            "max_steps": steps,
            "warmup": int(self.warmup_proportion * steps),
        }
        steps_per_epoch = max(1, per_epoch // self.accumulate)
        if self.evaluations:
            values["valid_step_interval"] = min(
                one.steps(steps_per_epoch) for one in self.evaluations
            )
        if self.saving is not None:
            values["save_step_frequency"] = self.saving.steps(steps_per_epoch)
        return TrainOptions(**values | self.options)

    def _batches(self, pairs: int, batch: int) -> int:
        return max(1, pairs // batch if self.drop_last else math.ceil(pairs / batch))


class _Values:
    """The values of a configuration by their paths. What is left after reading is not used."""

    def __init__(self, config: Mapping[str, Any], file: str | None) -> None:
        self.left: dict[str, Any] = {}
        self._file = file
        for path, value in _flattened(config):
            name = next(
                (
                    f"{place}{path.removeprefix(old)}"
                    for old, place in _MOVED.items()
                    if path.startswith(f"{old}.")
                ),
                path,
            )
            # Of several hooks of a type, the second has another path.
            while name in self.left:
                name = name.replace("Hook.", "Hook#.", 1) if "Hook" in name else f"{name}#"
            self.left[name] = value

    def take(self, path: str, default: Any = None) -> Any:
        """A value, or the default where there is none or it is None."""
        value = self.left.pop(path, default)
        return default if value is None else value

    def integer(self, path: str, default: int, minimum: int = 1) -> int:
        """A value that must be an integer."""
        try:
            return check_integer(self.take(path, default), path, minimum)
        except (InvalidInputError, InputTypeError) as error:
            raise error.at(file=self._file) from error

    def number(self, path: str, default: float, maximum: float = math.inf) -> float:
        """A value that must be a number of 0 or more."""
        value = self.take(path, default)
        if isinstance(value, str):  # YAML reads 5e-5 as a string
            with contextlib.suppress(ValueError):
                value = float(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            reason = f"expected a number, got {type(value).__name__}: {value!r:.60}"
            raise InputTypeError(reason, item=path, file=self._file)
        if not 0 <= value <= maximum:
            most = "" if maximum == math.inf else f" to {maximum:g}"
            reason = f"expected 0{most or ' or more'}, got {value!r}"
            raise InvalidInputError(reason, item=path, file=self._file)
        return float(value)

    def flag(self, path: str, default: bool) -> bool:
        """A value that must be a bool."""
        value = self.take(path, default)
        if not isinstance(value, bool):
            reason = f"expected a bool, got {type(value).__name__}: {value!r:.60}"
            raise InputTypeError(reason, item=path, file=self._file)
        return value

    def hooks(self, kind: str) -> list[dict[str, Any]]:
        """The settings of each hook of a type."""
        found: dict[str, dict[str, Any]] = {}
        for path in [path for path in self.left if path.startswith(f"train.hooks.{kind}")]:
            name, _, setting = path.removeprefix("train.hooks.").partition(".")
            if name.rstrip("#") == kind:
                found.setdefault(name, {})[setting] = self.left.pop(path)
        return list(found.values())


_MOVED = {old: f"train.hooks.{hook}" for old, hook in _PLACES.items()}


def _flattened(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The values at the ends of dicts, and of lists of hooks, whose types are parts of paths."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flattened(inner, f"{path}.{key}" if path else str(key))
    elif path == "train.hooks" and isinstance(value, list):
        counts: dict[str, int] = {}
        for hook in value:
            if not isinstance(hook, Mapping) or not isinstance(hook.get("type"), str):
                raise InvalidInputError("expected dicts with a 'type'", item=path)
            kind = hook["type"]
            name = f"{path}.{kind}{'#' * counts.setdefault(kind, 0)}"
            counts[kind] += 1
            yield f"{name}.type", kind
            for key, inner in hook.items():
                if key != "type":
                    yield f"{name}.{key}", inner
    else:
        yield path, value


def read_settings(
    config: Mapping[str, Any], *, on_gpu: bool, file: str | None = None
) -> TrainingSettings:
    """Read a configuration.

    Args:
        config: The values of `configuration.json`.
        on_gpu: The training runs on a GPU.
        file: Its path, for messages.
    """
    values = _Values(config, file)
    settings = TrainingSettings()
    if "train.max_epochs" not in values.left:
        raise InvalidInputError("required", item="train.max_epochs", file=file)
    settings.max_epochs = values.integer("train.max_epochs", 1)
    settings.work_dir = str(values.take("train.work_dir", settings.work_dir))
    settings.image = values.take("dataset.column_map.img")
    settings.text = values.take("dataset.column_map.text")
    _read_loaders(values, settings)
    _read_optimizer(values, settings)
    _read_precision(values, settings, on_gpu=on_gpu)
    _read_hooks(values, settings)
    _read_own(config, settings)
    metrics = values.take("evaluation.metrics", [])
    names = [
        one.get("type") if isinstance(one, Mapping) else one
        for one in (metrics if isinstance(metrics, list) else [metrics])
    ]
    if any(name != "inbatch_recall" for name in names):
        settings.ignored.append("evaluation.metrics")
    settings.ignored += [
        path.replace("#", "")
        for path, value in values.left.items()
        if path.partition(".")[0] not in _DESCRIPTIONS
        and not path.startswith("train.cnclip.")
        and value not in (None, [], {})
    ]
    return settings


def _read_loaders(values: _Values, settings: TrainingSettings) -> None:
    loader, of_eval = "train.dataloader", "evaluation.dataloader"
    settings.batch_size = values.integer(f"{loader}.batch_size_per_gpu", settings.batch_size)
    if f"{loader}.workers_per_gpu" in values.left:
        settings.options["num_workers"] = values.integer(f"{loader}.workers_per_gpu", 0, 0)
    settings.drop_last = values.flag(f"{loader}.drop_last", False)
    settings.eval_batch_size = values.integer(f"{of_eval}.batch_size_per_gpu", settings.batch_size)
    settings.options["valid_batch_size"] = settings.eval_batch_size
    settings.eval_drop_last = values.flag(f"{of_eval}.drop_last", False)
    values.take(f"{of_eval}.workers_per_gpu")  # the workers of the training read its images
    if not values.flag(f"{loader}.shuffle", True):
        settings.ignored.append(f"{loader}.shuffle")
    if values.flag(f"{of_eval}.shuffle", False):
        settings.ignored.append(f"{of_eval}.shuffle")


def _read_optimizer(values: _Values, settings: TrainingSettings) -> None:
    model = str(values.take("pretrained_model.model_name", ""))
    usual = _PAPER | {"lr": 4e-4} if model in _LARGE else _PAPER if model == _BASE else _USUAL
    found = {
        name: values.number(f"train.optimizer_hparams.{name}", default)
        for name, default in usual.items()
    }
    optimizer = "train.optimizer"
    betas = values.take(f"{optimizer}.betas", (found["beta1"], found["beta2"]))
    if not isinstance(betas, list | tuple) or len(betas) != 2:
        raise InvalidInputError(
            f"expected two numbers, got {betas!r:.60}", item=f"{optimizer}.betas"
        )
    settings.options |= {
        "lr": values.number(f"{optimizer}.lr", found["lr"]),
        "beta1": betas[0],
        "beta2": betas[1],
        "eps": values.number(f"{optimizer}.eps", found["eps"]),
        "wd": found["weight_decay"],
    }
    if values.take(f"{optimizer}.type", "AdamW") != "AdamW":
        settings.ignored.append(f"{optimizer}.type")
    settings.warmup_proportion = values.number("train.lr_scheduler.warmup_proportion", 0.0, 1.0)
    if values.take("train.lr_scheduler.name", "cosine") != "cosine":
        settings.ignored.append("train.lr_scheduler.name")
    for path in ("type", "by_epoch"):
        values.take(f"train.lr_scheduler_hook.{path}")
    hook = "train.optimizer_hook"
    settings.accumulate = values.integer(f"{hook}.cumulative_iters", 1)
    if f"{hook}.grad_clip.max_norm" in values.left:
        settings.options["max_grad_norm"] = values.number(f"{hook}.grad_clip.max_norm", 0.0)
    values.take(f"{hook}.loss_keys")
    if not values.flag("train.loss_cfg.aggregate", True):
        settings.ignored.append("train.loss_cfg.aggregate")


def _read_precision(values: _Values, settings: TrainingSettings, *, on_gpu: bool) -> None:
    half = values.flag("train.use_fp16", False)
    half |= values.take("train.optimizer_hook.type") == "TorchAMPOptimizerHook"
    settings.options["precision"] = "fp16" if half and on_gpu else "fp32"
    if half and not on_gpu:
        settings.ignored.append("train.use_fp16 (without a GPU)")
    if values.take("train.launcher", "pytorch") != "pytorch":
        settings.ignored.append("train.launcher")


def _read_hooks(values: _Values, settings: TrainingSettings) -> None:
    for hook in values.hooks("TextLoggerHook"):
        settings.options["log_interval"] = _interval(hook, "TextLoggerHook", 10)
    for hook in values.hooks("CheckpointHook"):
        # By default, ModelScope saves after each epoch.
        settings.saving = _period(hook, "CheckpointHook")
    hooks = values.hooks("EvaluationHook")
    settings.evaluations = [_period(hook, "EvaluationHook") for hook in hooks]
    best = values.hooks("BestCkptSaverHook")
    settings.keeps_best = bool(best)
    if any(hook.get("rule", "max") != "max" for hook in best):
        settings.ignored.append("train.hooks.BestCkptSaverHook.rule")
    for kind in _BUILT_IN:
        values.hooks(kind)


def _interval(hook: Mapping[str, Any], kind: str, default: int) -> int:
    return max(1, check_integer(hook.get("interval", default), f"{kind}.interval", 0))


def _period(hook: Mapping[str, Any], kind: str) -> Period:
    by_epoch = hook.get("by_epoch", hook.get("save_strategy", "by_epoch") == "by_epoch")
    return Period(_interval(hook, kind, 1), bool(by_epoch))


def _read_own(config: Mapping[str, Any], settings: TrainingSettings) -> None:
    """Options of `cnclip.train` itself, which `train.cnclip` may have."""
    train = config.get("train")
    own = train.get("cnclip", {}) if isinstance(train, Mapping) else {}
    if not isinstance(own, Mapping):
        raise InputTypeError(f"expected a dict, got {type(own).__name__}", item="train.cnclip")
    if unknown := sorted(own.keys() - {one.name for one in dataclasses.fields(TrainOptions)}):
        raise InvalidInputError(f"no option {unknown[0]!r}", item="train.cnclip")
    settings.options |= own
