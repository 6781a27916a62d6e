"""Trains in two parts: evaluates, trains, continues the run, and starts again with the weights."""

import os
import sys

from modelscope.metainfo import Metrics, Trainers
from modelscope.msdatasets import MsDataset
from modelscope.trainers import build_trainer
from modelscope.utils.config import Config
from modelscope.utils.constant import DownloadMode, ModelFile

work_dir = sys.argv[1]
train = MsDataset.load("muge", namespace="modelscope", split="train[:12]")
valid = MsDataset.load(
    "muge",
    namespace="modelscope",
    split="validation",
    download_mode=DownloadMode.FORCE_REDOWNLOAD,
)


def change(config):
    config.train.max_epochs = 1
    config.train.dataloader = {"batch_size_per_gpu": 6, "workers_per_gpu": 0}
    config.train.optimizer_hparams = {"lr": 1e-5, "weight_decay": 0.01}
    config.dataset = {"column_map": {"img": "image", "text": "query"}}
    config.evaluation = {"dataloader": {"batch_size_per_gpu": 8, "workers_per_gpu": 0}}
    config.dump(os.path.join(work_dir, "used.yaml"))
    return Config.from_file(os.path.join(work_dir, "used.yaml"))


arguments = {
    "model": "damo/multi-modal_clip-vit-base-patch16_zh",
    "train_dataset": train,
    "eval_dataset": valid,
    "metrics": [Metrics.inbatch_recall],
    "work_dir": work_dir,
    "cfg_modify_fn": change,
}


def trainer(**others):
    return build_trainer(Trainers.clip_multi_modal_embedding, {**arguments, **others})


first = trainer()
before = first.evaluate()["inbatch_t2i_recall_at_1"]
first.train()
weights = os.path.join(work_dir, ModelFile.TRAIN_OUTPUT_DIR, ModelFile.TORCH_MODEL_BIN_FILE)
after = first.evaluate(checkpoint_path=weights)["inbatch_t2i_recall_at_1"]
trainer(max_epochs=3).train(checkpoint_path=os.path.join(work_dir, "runs", "001", "last.pt"))
trainer(work_dir=os.path.join(work_dir, "more")).train(checkpoint_path=weights)
print(0 <= before <= 1, 0 <= after <= 1, len(valid))
