"""The rows of a model's directory, and its temperature, to a file."""

import sys

import numpy as np
from modelscope.outputs import OutputKeys
from modelscope.pipelines import pipeline
from modelscope.preprocessors.image import load_image
from modelscope.utils.constant import Tasks

directory, output, *paths = sys.argv[1:]
embed = pipeline(task=Tasks.multi_modal_embedding, model=directory)
images = embed.forward({"img": [load_image(path) for path in paths]})
texts = embed.forward({"text": ["猫", "一只可爱的狗", "Hello, World!"]})
np.savez(
    output,
    images=images[OutputKeys.IMG_EMBEDDING].cpu().numpy(),
    texts=texts[OutputKeys.TEXT_EMBEDDING].cpu().numpy(),
    temperature=embed.model.temperature.detach().cpu().numpy(),
)
