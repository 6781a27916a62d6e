"""The content of `modelscope.utils.constant`: names of tasks, files and modes."""

from __future__ import annotations

import enum
from typing import Any

from . import _names
from ._tables import table

CVTasks = table("CVTasks", _names.CV_TASKS)
NLPTasks = table("NLPTasks", _names.NLP_TASKS)
AudioTasks = table("AudioTasks", _names.AUDIO_TASKS)
MultiModalTasks = table("MultiModalTasks", _names.MULTI_MODAL_TASKS)
ScienceTasks = table("ScienceTasks", "protein_structure")
Other = table("Other", "other")
Fields = table("Fields", "hub datasets framework cv nlp audio multi_modal science server")

_FIELDS = {
    "cv": CVTasks,
    "nlp": NLPTasks,
    "audio": AudioTasks,
    "multi-modal": MultiModalTasks,
    "science": ScienceTasks,
}


class Tasks(CVTasks, NLPTasks, AudioTasks, MultiModalTasks, ScienceTasks, Other):  # type: ignore[misc, valid-type]
    """The names of all of ModelScope's tasks."""

    task_template = "task-template"

    @staticmethod
    def find_field_by_task(task_name: str) -> str | None:
        """The field of a task, such as `'multi-modal'`; None for others."""
        return next((name for name, tasks in _FIELDS.items() if task_name in _values(tasks)), None)


def _values(names: Any) -> list[Any]:
    return [value for name, value in vars(names).items() if not name.startswith("__")]


ModelFile = table(
    "ModelFile",
    "CONFIGURATION=configuration.json README=README.md TF_SAVED_MODEL_FILE=saved_model.pb "
    "TF_GRAPH_FILE=tf_graph.pb TF_CHECKPOINT_FOLDER=tf_ckpts TF_CKPT_PREFIX=ckpt- "
    "TORCH_MODEL_FILE=pytorch_model.pt TORCH_MODEL_BIN_FILE=pytorch_model.bin "
    "VOCAB_FILE=vocab.txt ONNX_MODEL_FILE=model.onnx LABEL_MAPPING=label_mapping.json "
    "TRAIN_OUTPUT_DIR=output TRAIN_BEST_OUTPUT_DIR=output_best TS_MODEL_FILE=model.ts "
    "YAML_FILE=model.yaml TOKENIZER_FOLDER=tokenizer CONFIG=config.json",
)
Invoke = table(
    "Invoke",
    "KEY=invoked_by PRETRAINED=from_pretrained PIPELINE=pipeline TRAINER=trainer "
    "LOCAL_TRAINER=local_trainer PREPROCESSOR=preprocessor",
)
ConfigFields = table(
    "ConfigFields",
    "framework task pipeline model dataset preprocessor train evaluation postprocessor",
)
Frameworks = table("Frameworks", "tf=tensorflow torch=pytorch kaldi")
ModeKeys = table("ModeKeys", "TRAIN EVAL INFERENCE", value=str.lower)
Devices = table("Devices", "cpu gpu xpu")


class Hubs(enum.Enum):
    """Where a model or data set is."""

    modelscope = "modelscope"
    huggingface = "huggingface"


class DownloadMode(enum.Enum):
    """Whether a data set that was downloaded before is downloaded again."""

    REUSE_DATASET_IF_EXISTS = "reuse_dataset_if_exists"
    FORCE_REDOWNLOAD = "force_redownload"


DEFAULT_MODEL_REVISION = DEFAULT_REPOSITORY_REVISION = DEFAULT_DATASET_REVISION = "master"
DEFAULT_DATASET_NAMESPACE = "modelscope"

__all__ = [
    "DEFAULT_DATASET_NAMESPACE",
    "DEFAULT_DATASET_REVISION",
    "DEFAULT_MODEL_REVISION",
    "DEFAULT_REPOSITORY_REVISION",
    "AudioTasks",
    "CVTasks",
    "ConfigFields",
    "Devices",
    "DownloadMode",
    "Fields",
    "Frameworks",
    "Hubs",
    "Invoke",
    "ModeKeys",
    "ModelFile",
    "MultiModalTasks",
    "NLPTasks",
    "ScienceTasks",
    "Tasks",
]
