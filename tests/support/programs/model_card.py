"""The example of the model card: an image from the web, four texts, their probabilities."""

import torch
from modelscope.pipelines import pipeline
from modelscope.preprocessors.image import load_image
from modelscope.utils.constant import Tasks

pipeline = pipeline(
    task=Tasks.multi_modal_embedding, model="damo/multi-modal_clip-vit-base-patch16_zh"
)
image = load_image("https://yangan2.oss-cn-beijing.aliyuncs.com/pokemon.jpeg")
texts = ["杰尼龟", "妙蛙种子", "小火龙", "皮卡丘"]

img_embedding = pipeline.forward({"img": image})["img_embedding"]
text_embedding = pipeline.forward({"text": texts})["text_embedding"]
with torch.no_grad():
    logits_per_image = (img_embedding / pipeline.model.temperature) @ text_embedding.t()
    probs = logits_per_image.softmax(dim=-1).cpu().numpy()

print("图文匹配概率:", probs)
