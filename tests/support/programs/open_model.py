"""A model without a pipeline: its own preprocessing, rows of both kinds, the temperature."""

import sys

import numpy as np
import torch
from modelscope.models import Model
from modelscope.pipelines import pipeline
from modelscope.preprocessors.multi_modal import CLIPPreprocessor
from modelscope.utils.constant import ModeKeys, Tasks
from PIL import Image

output, *paths = sys.argv[1:]
model = Model.from_pretrained("damo/multi-modal_clip-vit-base-patch16_zh", revision="v1.0")
model.eval()
preprocessor = CLIPPreprocessor(model.model_dir, mode=ModeKeys.INFERENCE)
images = [Image.open(path) for path in paths]
tensors = preprocessor({"img": images, "text": ["皮卡丘", "杰尼龟"]})
with torch.no_grad():
    rows = model(tensors)
    similarity = rows["img_embedding"] @ rows["text_embedding"].t() / model.temperature
pipe = pipeline(Tasks.multi_modal_embedding, model=model)
again = pipe.forward({"img": images})["img_embedding"]
np.savez(
    output,
    pixels=tensors["img"].numpy(),
    ids=tensors["text"].numpy(),
    images=rows["img_embedding"].cpu().numpy(),
    texts=rows["text_embedding"].cpu().numpy(),
    again=again.cpu().numpy(),
    similarity=similarity.cpu().detach().numpy(),
    temperature=model.temperature.cpu().detach().numpy(),
)
