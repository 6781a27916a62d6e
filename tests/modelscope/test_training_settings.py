"""What ModelScope's configuration means for `cnclip.train`."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from cnclip.errors import CnclipError, InputTypeError, InvalidInputError
from cnclip.modelscope._training_settings import TrainingSettings, read_settings
from cnclip.train.options import TrainOptions

CONFIG: dict[str, Any] = {
    "framework": "pytorch",
    "task": "multi-modal-embedding",
    "dataset": {"column_map": {"img": "image", "text": "query"}},
    "train": {
        "work_dir": "work",
        "max_epochs": 3,
        "dataloader": {"batch_size_per_gpu": 8, "workers_per_gpu": 2, "drop_last": True},
        "hooks": [{"type": "TextLoggerHook", "interval": 4}],
    },
    "evaluation": {"dataloader": {"batch_size_per_gpu": 5}},
}


def read(changes: dict[str, Any] | None = None, *, on_gpu: bool = False) -> TrainingSettings:
    """The settings of CONFIG with other values at some paths."""
    config = copy.deepcopy(CONFIG)
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        inner = config
        for key in parents:
            inner = inner.setdefault(key, {})
        inner[last] = value
    return read_settings(config, on_gpu=on_gpu, file="configuration.json")


def test_values() -> None:
    settings = read({"train.optimizer_hparams": {"lr": 2e-5, "weight_decay": 0.001, "eps": 1e-8}})
    options = settings.train_options(30, 1)
    assert (options.batch_size, options.valid_batch_size, options.num_workers) == (8, 5, 2)
    assert (options.lr, options.wd, options.eps) == (2e-5, 0.001, 1e-8)
    assert (settings.image, settings.text, settings.work_dir) == ("image", "query", "work")
    assert options.log_interval == 4
    assert not settings.ignored


@pytest.mark.parametrize(
    ("drop_last", "pairs", "processes", "accumulate", "steps"),
    [(True, 30, 1, 1, 9), (False, 30, 1, 1, 12), (True, 30, 2, 1, 3), (True, 32, 1, 2, 6)],
)
def test_steps(drop_last: bool, pairs: int, processes: int, accumulate: int, steps: int) -> None:
    settings = read(
        {
            "train.dataloader.drop_last": drop_last,
            "train.optimizer_hook": {"cumulative_iters": accumulate},
            "train.lr_scheduler": {"warmup_proportion": 0.5},
        }
    )
    options = settings.train_options(pairs, processes)
    assert (options.max_steps, options.accum_freq) == (steps, accumulate)
    assert options.warmup == steps // 2


def test_a_batch_is_no_larger_than_the_data() -> None:
    options = read().train_options(5, 1)
    assert (options.batch_size, options.max_steps) == (5, 3)


@pytest.mark.parametrize(
    ("model", "lr", "beta2"),
    [
        ("damo/multi-modal_clip-vit-base-patch16_zh", 5e-4, 0.98),
        ("damo/multi-modal_clip-vit-large-patch14_336_zh", 4e-4, 0.98),
        ("damo/multi-modal_clip-vit-huge-patch14_zh", 5e-4, 0.999),
    ],
)
def test_the_optimizer_of_each_model(model: str, lr: float, beta2: float) -> None:
    options = read({"pretrained_model.model_name": model}).train_options(8, 1)
    assert (options.lr, options.beta2) == (lr, beta2)


def test_settings_of_torch_override_those_of_the_model() -> None:
    optimizer = {"type": "AdamW", "lr": 1e-5, "betas": [0.8, 0.9], "eps": 1e-5}
    options = read({"train.optimizer": optimizer}).train_options(8, 1)
    assert (options.lr, options.beta1, options.beta2, options.eps) == (1e-5, 0.8, 0.9, 1e-5)


def test_evaluation_and_saving() -> None:
    hooks = [
        {"type": "EvaluationHook", "by_epoch": False, "interval": 200},
        {"type": "EvaluationHook", "by_epoch": True, "interval": 2},
        {"type": "CheckpointHook", "interval": 1},
        {"type": "BestCkptSaverHook", "metric_key": "inbatch_t2i_recall_at_1", "interval": 100},
    ]
    settings = read({"train.hooks": hooks})
    options = settings.train_options(80, 1)  # 10 steps of an epoch
    assert options.valid_step_interval == 20  # the more frequent one
    assert options.save_step_frequency == 10
    assert settings.keeps_best and not settings.ignored
    assert not read().evaluations


def test_several_hooks_of_a_kind() -> None:
    hooks = [{"type": "TextLoggerHook", "interval": number} for number in (3, 4, 5)]
    settings = read({"train.hooks": hooks})
    assert settings.train_options(8, 1).log_interval == 5 and not settings.ignored
    hooks = [{"type": "EvaluationHook", "interval": number} for number in (3, 2, 4)]
    settings = read({"train.hooks": hooks})
    assert len(settings.evaluations) == 3 and not settings.ignored


def test_gradients_and_workers() -> None:
    assert read().train_options(8, 1).max_grad_norm == TrainOptions().max_grad_norm
    settings = read({"train.optimizer_hook": {"grad_clip": {"max_norm": 0.5}}})
    assert settings.train_options(8, 1).max_grad_norm == 0.5 and not settings.ignored
    assert settings.train_options(8, 1).num_workers == 2
    loader = {"batch_size_per_gpu": 8}
    assert read({"train.dataloader": loader}).train_options(8, 1).num_workers is None


def test_newer_places_of_hooks() -> None:
    settings = read(
        {
            "train.hooks": [],
            "train.logging.interval": 7,
            "train.checkpoint.period": {"by_epoch": False, "interval": 6},
            "evaluation.period": {"by_epoch": False, "interval": 9},
        }
    )
    options = settings.train_options(80, 1)
    assert (options.log_interval, options.save_step_frequency) == (7, 6)
    assert options.valid_step_interval == 9
    assert not settings.ignored


def test_precision() -> None:
    hook = {"train.optimizer_hook": {"type": "TorchAMPOptimizerHook"}}
    assert read(hook, on_gpu=True).train_options(8, 1).precision == "fp16"
    on_cpu = read({"train.use_fp16": True})
    assert on_cpu.train_options(8, 1).precision == "fp32"
    assert on_cpu.ignored == ["train.use_fp16 (without a GPU)"]


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("train.unheard_of", 3, "train.unheard_of"),
        ("evaluation.other", {"deep": 1}, "evaluation.other.deep"),
        ("train.optimizer.type", "SGD", "train.optimizer.type"),
        ("train.lr_scheduler.name", "linear", "train.lr_scheduler.name"),
        ("train.loss_cfg.aggregate", False, "train.loss_cfg.aggregate"),
        ("train.dataloader.shuffle", False, "train.dataloader.shuffle"),
        ("train.launcher", "slurm", "train.launcher"),
        ("train.hooks", [{"type": "EarlyStopHook"}], "train.hooks.EarlyStopHook.type"),
        ("evaluation.metrics", [{"type": "seq-cls-metric"}], "evaluation.metrics"),
        ("evaluation.dataloader.shuffle", True, "evaluation.dataloader.shuffle"),
        (
            "train.hooks",
            [{"type": "BestCkptSaverHook", "rule": "min"}],
            "train.hooks.BestCkptSaverHook.rule",
        ),
    ],
)
def test_what_is_ignored_is_named(path: str, value: Any, named: str) -> None:
    assert read({path: value}).ignored == [named]


def test_options_of_cnclip() -> None:
    settings = read({"train.cnclip": {"duplicates": "positive", "freeze_vision": True}})
    options = settings.train_options(8, 1)
    assert options.duplicates == "positive" and options.freeze_vision
    assert not settings.ignored


@pytest.mark.parametrize(
    ("path", "value", "error", "words"),
    [
        ("train.max_epochs", "many", InputTypeError, "train.max_epochs.*expected int, got str"),
        ("train.max_epochs", 0, InvalidInputError, "train.max_epochs.*1 or more"),
        ("train.dataloader.batch_size_per_gpu", 2.5, InputTypeError, "batch_size_per_gpu"),
        ("train.optimizer_hparams.lr", -1, InvalidInputError, "optimizer_hparams.lr.*0 or more"),
        ("train.optimizer_hparams.lr", "x", InputTypeError, "lr.*expected a number, got str"),
        ("train.lr_scheduler.warmup_proportion", 2, InvalidInputError, "expected 0 to 1"),
        ("train.optimizer.betas", [1], InvalidInputError, "expected two numbers"),
        ("train.use_fp16", "yes", InputTypeError, "train.use_fp16.*expected a bool"),
        ("train.hooks", [{"interval": 1}], InvalidInputError, "train.hooks.*with a 'type'"),
        ("train.cnclip", {"speed": 1}, InvalidInputError, "train.cnclip: no option 'speed'"),
        ("train.cnclip", 3, InputTypeError, "train.cnclip: expected a dict"),
    ],
)
def test_bad_values(path: str, value: Any, error: type[CnclipError], words: str) -> None:
    with pytest.raises(error, match=words):
        read({path: value}).train_options(8, 1)


def test_the_length_of_the_training_is_required() -> None:
    with pytest.raises(InvalidInputError, match=r"train.max_epochs: .*required"):
        read_settings({"train": {}}, on_gpu=False, file="configuration.json")
