"""A list of inputs, a generator of inputs, and the tensors of one."""

import sys

import numpy as np
from modelscope.pipelines import pipeline
from modelscope.preprocessors.image import LoadImage
from modelscope.utils.constant import Tasks

output, *paths = sys.argv[1:]
embed = pipeline(Tasks.multi_modal_embedding, model="damo/multi-modal_clip-vit-base-patch16_zh")
images = [LoadImage.convert_to_img(path) for path in paths]
listed = embed([{"img": image, "text": "猫"} for image in images], batch_size=2)
drawn = list(embed({"img": image} for image in images))
single = embed({"img": images, "caption": "not used"})
tensors = embed.preprocess({"img": images, "text": "猫"})
np.savez(
    output,
    listed=np.concatenate([one["img_embedding"].numpy() for one in listed]),
    drawn=np.concatenate([one["img_embedding"].numpy() for one in drawn]),
    single=single["img_embedding"].numpy(),
    modelled=embed.model(tensors)["img_embedding"].numpy(),
    text=listed[0]["text_embedding"].numpy(),
    pixels=tensors["img"].numpy(),
)
