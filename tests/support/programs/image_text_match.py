"""Which text fits a photograph best?"""

import sys

import torch
from modelscope.pipelines import pipeline
from modelscope.preprocessors.image import load_image
from modelscope.utils.constant import Tasks

MODEL = "damo/multi-modal_clip-vit-base-patch16_zh"

photo, *labels = sys.argv[1:]
clip = pipeline(task=Tasks.multi_modal_embedding, model=MODEL, model_revision="v1.0")
image = load_image(photo)
img_embedding = clip.forward({"img": image})["img_embedding"]
text_embedding = clip.forward({"text": labels})["text_embedding"]
assert isinstance(img_embedding, torch.Tensor)
with torch.no_grad():
    logits = (img_embedding / clip.model.temperature) @ text_embedding.t()
    probs = logits.softmax(dim=-1).cpu().numpy()
print(" ".join(f"{value:.7f}" for value in probs[0]))
