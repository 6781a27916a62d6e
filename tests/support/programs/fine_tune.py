"""Fine-tunes on MUGE by a configuration in the working folder, and opens what was written."""

import json
import os
import sys

from modelscope.metainfo import Metrics, Trainers
from modelscope.msdatasets import MsDataset
from modelscope.pipelines import pipeline
from modelscope.trainers import build_trainer
from modelscope.utils.constant import ModelFile, Tasks

MODEL = "damo/multi-modal_clip-vit-base-patch16_zh"
WORKSPACE = "./workspace/ckpts/clip"
epochs, batch_size = int(sys.argv[1]), int(sys.argv[2])
loader = {"batch_size_per_gpu": batch_size, "workers_per_gpu": 0, "drop_last": True}
configuration = {
    "framework": "pytorch",
    "task": "multi-modal-embedding",
    "pipeline": {"type": "multi-modal-embedding"},
    "pretrained_model": {"model_name": MODEL},
    "dataset": {"column_map": {"img": "image", "text": "query"}},
    "train": {
        "work_dir": WORKSPACE,
        "max_epochs": epochs,
        "use_fp16": True,
        "dataloader": {**loader, "shuffle": True},
        "lr_scheduler": {"warmup_proportion": 0.1},
        "lr_scheduler_hook": {"type": "LrSchedulerHook", "by_epoch": False},
        "optimizer": {"type": "AdamW"},
        "optimizer_hparams": {
            "lr": 1e-3,
            "weight_decay": 0.001,
            "beta1": 0.9,
            "beta2": 0.999,
            "eps": 1e-08,
        },
        "optimizer_hook": {
            "type": "TorchAMPOptimizerHook",
            "cumulative_iters": 1,
            "loss_keys": "loss",
        },
        "loss_cfg": {"aggregate": True},
        "hooks": [
            {
                "type": "BestCkptSaverHook",
                "metric_key": "inbatch_t2i_recall_at_1",
                "by_epoch": False,
                "interval": 200,
            },
            {"type": "TextLoggerHook", "interval": 1},
            {"type": "IterTimerHook"},
            {"type": "EvaluationHook", "by_epoch": False, "interval": 200},
            {"type": "EvaluationHook", "by_epoch": True, "interval": 1},
            {"type": "ClipClampLogitScaleHook"},
        ],
    },
    "evaluation": {
        "dataloader": {**loader, "shuffle": False},
        "metrics": [{"type": "inbatch_recall"}],
    },
    "preprocessor": [],
}

if len(sys.argv) > 3:
    configuration["train"]["cnclip"] = json.loads(sys.argv[3])

if __name__ == "__main__":
    os.makedirs(WORKSPACE, exist_ok=True)
    config_file = os.path.join(WORKSPACE, ModelFile.CONFIGURATION)
    with open(config_file, "w") as writer:
        json.dump(configuration, writer)
    arguments = {
        "model": MODEL,
        "work_dir": WORKSPACE,
        "train_dataset": MsDataset.load("muge", namespace="modelscope", split="train"),
        "eval_dataset": MsDataset.load("muge", namespace="modelscope", split="validation"),
        "metrics": [Metrics.inbatch_recall],
        "cfg_file": config_file,
    }
    trainer = build_trainer(name=Trainers.clip_multi_modal_embedding, default_args=arguments)
    before = trainer.evaluate()["inbatch_t2i_recall_at_1"]
    trainer.train()
    after = trainer.evaluate()["inbatch_t2i_recall_at_1"]
    output = os.path.join(WORKSPACE, ModelFile.TRAIN_OUTPUT_DIR)
    tuned = pipeline(Tasks.multi_modal_embedding, model=output)
    row = arguments["eval_dataset"][0]
    image = tuned.forward({"img": row["image"]})["img_embedding"]
    text = tuned.forward({"text": row["query"]})["text_embedding"]
    print(json.dumps({"before": before, "after": after, "files": sorted(os.listdir(output))}))
    print(*image.shape, float((image @ text.t())[0, 0]))
