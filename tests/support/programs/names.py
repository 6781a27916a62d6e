"""Names of ModelScope that are imported; most of them are never used."""

import modelscope
from modelscope import MsDataset, get_logger, read_config
from modelscope.exporters import TorchModelExporter
from modelscope.hub.api import HubApi
from modelscope.metainfo import Metrics, Models, Pipelines, Preprocessors, Trainers
from modelscope.models import Model
from modelscope.models.base import TorchModel
from modelscope.models.nlp import SbertForSequenceClassification
from modelscope.msdatasets import MsDataset as SameDataset
from modelscope.outputs import OutputKeys
from modelscope.pipelines import Pipeline, pipeline
from modelscope.pipelines.builder import PIPELINES
from modelscope.preprocessors import LoadImage, Preprocessor, load_image
from modelscope.trainers import EpochBasedTrainer, build_trainer
from modelscope.trainers.training_args import TrainingArgs
from modelscope.utils.config import Config
from modelscope.utils.constant import DownloadMode, Frameworks, ModeKeys, ModelFile, Tasks
from modelscope.utils.test_utils import test_level


def classify(model: SbertForSequenceClassification | None = None) -> "list[TrainingArgs]":
    return [] if model is None else [model]


print(modelscope.__version__.split(".")[0], Tasks.multi_modal_embedding, Tasks.image_captioning)
print(Trainers.clip_multi_modal_embedding, Metrics.inbatch_recall, Models.clip)
print(Pipelines.multi_modal_embedding, Preprocessors.load_image, OutputKeys.TEXT_EMBEDDING)
print(ModelFile.VOCAB_FILE, ModeKeys.TRAIN, Frameworks.torch, DownloadMode.FORCE_REDOWNLOAD.value)
print(Tasks.find_field_by_task("image-text-retrieval"), test_level(), classify())
print(issubclass(TorchModel, Model), isinstance(pipeline, Pipeline), get_logger().name)
assert callable(build_trainer) and callable(HubApi) and callable(read_config) and PIPELINES
assert EpochBasedTrainer and TorchModelExporter and MsDataset and SameDataset
assert LoadImage().mode == "RGB" and callable(load_image) and callable(Preprocessor) and Config
