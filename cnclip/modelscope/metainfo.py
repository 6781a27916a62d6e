"""The content of `modelscope.metainfo`: names of models, pipelines, trainers, metrics and more."""

from __future__ import annotations

from typing import Any

from . import _names
from ._choice import DEFAULT_MODEL
from ._tables import table
from .constant import Tasks

Models = table("Models", _names.MODELS)
TaskModels = table("TaskModels", _names.TASK_MODELS)
Heads = table("Heads", _names.HEADS)
Pipelines = table("Pipelines", _names.PIPELINES)
CVTrainers = table("CVTrainers", _names.CV_TRAINERS)
NLPTrainers = table("NLPTrainers", _names.NLP_TRAINERS)
MultiModalTrainers = table("MultiModalTrainers", _names.MULTI_MODAL_TRAINERS)
AudioTrainers = table("AudioTrainers", _names.AUDIO_TRAINERS)
Preprocessors = table("Preprocessors", _names.PREPROCESSORS)
Metrics = table("Metrics", _names.METRICS)
Optimizers = table("Optimizers", "default=optimizer SGD=SGD")
Hooks = table("Hooks", _names.HOOKS)
LR_Schedulers = table("LR_Schedulers", _names.LR_SCHEDULERS)
CustomDatasets = table("CustomDatasets", _names.CUSTOM_DATASETS)


class Trainers(CVTrainers, NLPTrainers, MultiModalTrainers, AudioTrainers):  # type: ignore[misc, valid-type]
    """The names of all of ModelScope's trainers."""

    default = "trainer"
    tinynas_damoyolo = "tinynas-damoyolo"

    @staticmethod
    def get_trainer_domain(attribute_or_value: str) -> str:
        """The field of a trainer, by its attribute or value; `'unknown'` for others."""
        if attribute_or_value == Trainers.default:
            return Trainers.default
        fields: dict[str, Any] = {
            "cv": CVTrainers,
            "nlp": NLPTrainers,
            "audio": AudioTrainers,
            "multi-modal": MultiModalTrainers,
        }
        for field, names in fields.items():
            if attribute_or_value in vars(names) or attribute_or_value in vars(names).values():
                return field
        return "unknown"


# Only of tasks whose models cnclip opens.
DEFAULT_MODEL_FOR_PIPELINE = {
    Tasks.multi_modal_embedding: (Pipelines.multi_modal_embedding, DEFAULT_MODEL),
}

__all__ = [
    "DEFAULT_MODEL_FOR_PIPELINE",
    "AudioTrainers",
    "CVTrainers",
    "CustomDatasets",
    "Heads",
    "Hooks",
    "LR_Schedulers",
    "Metrics",
    "Models",
    "MultiModalTrainers",
    "NLPTrainers",
    "Optimizers",
    "Pipelines",
    "Preprocessors",
    "TaskModels",
    "Trainers",
]
