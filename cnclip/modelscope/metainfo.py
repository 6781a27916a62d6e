"""The content of `modelscope.metainfo`: the names that Chinese-CLIP's programs use."""

from __future__ import annotations

from ._choice import DEFAULT_MODEL
from ._tables import PartOf
from .constant import Tasks


class Models(metaclass=PartOf):
    """Names of models."""

    clip = "clip-multi-modal-embedding"
    gemm = "gemm-generative-multi-modal"
    team = "team-multi-modal-similarity"


class Pipelines(metaclass=PartOf):
    """Names of pipelines."""

    multi_modal_embedding = "multi-modal-embedding"


class Preprocessors(metaclass=PartOf):
    """Names of preprocessors."""

    clip_preprocessor = "clip-preprocessor"
    load_image = "load-image"


class MultiModalTrainers(metaclass=PartOf):
    """Names of trainers."""

    clip_multi_modal_embedding = "clip-multi-modal-embedding"


class Trainers(MultiModalTrainers, metaclass=PartOf):
    """Names of trainers."""

    default = "trainer"


class Metrics(metaclass=PartOf):
    """Names of metrics."""

    accuracy = "accuracy"
    inbatch_recall = "inbatch_recall"
    loss_metric = "loss-metric"


class Hooks(metaclass=PartOf):
    """Names of hooks."""

    BestCkptSaverHook = "BestCkptSaverHook"
    CheckpointHook = "CheckpointHook"
    ClipClampLogitScaleHook = "ClipClampLogitScaleHook"
    EarlyStopHook = "EarlyStopHook"
    EvaluationHook = "EvaluationHook"
    IterTimerHook = "IterTimerHook"
    LrSchedulerHook = "LrSchedulerHook"
    OptimizerHook = "OptimizerHook"
    TensorboardHook = "TensorboardHook"
    TextLoggerHook = "TextLoggerHook"
    TorchAMPOptimizerHook = "TorchAMPOptimizerHook"


# Only of tasks whose models cnclip opens.
DEFAULT_MODEL_FOR_PIPELINE = {
    Tasks.multi_modal_embedding: (Pipelines.multi_modal_embedding, DEFAULT_MODEL),
}

__all__ = [
    "DEFAULT_MODEL_FOR_PIPELINE",
    "Hooks",
    "Metrics",
    "Models",
    "MultiModalTrainers",
    "Pipelines",
    "Preprocessors",
    "Trainers",
]
