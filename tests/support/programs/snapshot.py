"""Download a model to a folder, look at its files, and open it from there."""

import json
import os
import sys

from modelscope import Model, Tasks, pipeline, snapshot_download
from modelscope.hub.file_download import model_file_download
from modelscope.hub.snapshot_download import snapshot_download as same_function
from modelscope.utils.constant import ModelFile

MODEL = "damo/multi-modal_clip-vit-base-patch16_zh"
folder = sys.argv[1]

whole = snapshot_download(MODEL, cache_dir=os.path.join(folder, "cache"), revision="v1.0")
local = same_function(MODEL, local_dir=os.path.join(folder, "local"))
some = snapshot_download(
    MODEL, local_dir=os.path.join(folder, "some"), ignore_file_pattern=[r".*\.bin"]
)
texts = snapshot_download(MODEL, local_dir=os.path.join(folder, "texts"), allow_patterns="*.txt")
file = model_file_download(MODEL, ModelFile.CONFIGURATION, cache_dir=os.path.join(folder, "one"))
with open(file, encoding="utf-8") as opened:
    print(json.load(opened)["model"]["type"])
for path in (whole, local, some, texts):
    print(*sorted(name for name in os.listdir(path) if not name.startswith(".")))
assert os.path.isfile(os.path.join(local, ModelFile.TORCH_MODEL_BIN_FILE))

rows = []
for model in (whole, local, Model.from_pretrained(local)):
    pipe = pipeline(Tasks.multi_modal_embedding, model=model)
    rows.append(pipe.forward({"text": ["猫"]})["text_embedding"])
assert all((row == rows[0]).all() for row in rows)
print(" ".join(f"{value:.7f}" for value in rows[0][0, :4].tolist()))
