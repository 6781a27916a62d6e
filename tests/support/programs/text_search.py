"""The best images for a query, with torch.topk."""

import sys

import torch
from modelscope.outputs import OutputKeys
from modelscope.pipelines import pipeline
from modelscope.preprocessors.image import load_image
from modelscope.utils.constant import Tasks
from modelscope.utils.logger import get_logger

logger = get_logger()
query, *paths = sys.argv[1:]
pipe = pipeline(task=Tasks.image_text_retrieval, model="damo/multi-modal_clip-vit-base-patch16_zh")
rows = torch.cat(
    [pipe.forward({"img": load_image(path)})[OutputKeys.IMG_EMBEDDING] for path in paths]
)
text = pipe.forward({"text": query})[OutputKeys.TEXT_EMBEDDING]
scores = (text @ rows.t()).squeeze(0)
values, places = torch.topk(scores, k=3)
logger.info("%d images", len(paths))
for value, place in zip(values.tolist(), places.tolist(), strict=True):
    print(place, f"{value:.6f}")
