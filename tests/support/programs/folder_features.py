"""Features of all images of a folder, in batches, to a file."""

import os
import sys

import numpy as np
import torch
from modelscope.pipelines import pipeline
from modelscope.utils.constant import Tasks
from PIL import Image


class FeatureExtractor:
    def __init__(self, batch_size=4):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.batch_size = batch_size
        self.pipe = pipeline(
            Tasks.multi_modal_embedding,
            model="damo/multi-modal_clip-vit-base-patch16_zh",
            device=device,
        )

    def images(self, paths):
        parts = []
        for start in range(0, len(paths), self.batch_size):
            batch = [Image.open(path) for path in paths[start : start + self.batch_size]]
            found = self.pipe.forward({"img": batch})["img_embedding"]
            parts.append(found.detach().cpu().numpy())
        return np.concatenate(parts)

    def texts(self, texts):
        return self.pipe.forward({"text": texts})["text_embedding"].detach().cpu().numpy()


if __name__ == "__main__":
    folder, output = sys.argv[1:]
    names = sorted(os.listdir(folder))
    extractor = FeatureExtractor()
    np.savez(
        output,
        names=names,
        images=extractor.images([os.path.join(folder, name) for name in names]),
        texts=extractor.texts(["猫", "一只可爱的狗在草地上奔跑"]),
    )
