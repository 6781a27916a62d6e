"""Pairs that a data loader's workers preprocess, and the model's rows of its batches."""

import sys

import numpy as np
import torch
from modelscope.hub.snapshot_download import snapshot_download
from modelscope.models.multi_modal import CLIPForMultiModalEmbedding
from modelscope.preprocessors.multi_modal import CLIPPreprocessor
from modelscope.utils.constant import ModeKeys
from PIL import Image
from torch.utils.data import DataLoader, Dataset

NAME = "damo/multi-modal_clip-vit-base-patch16_zh"


class Pairs(Dataset):
    def __init__(self, paths, preprocessor):
        self.paths, self.preprocessor = paths, preprocessor

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return self.preprocessor({"img": Image.open(self.paths[index]), "text": f"第{index}张"})


if __name__ == "__main__":
    output, *paths = sys.argv[1:]
    folder = snapshot_download(NAME)
    preprocessor = CLIPPreprocessor(model_dir=folder, mode=ModeKeys.EVAL)
    model = CLIPForMultiModalEmbedding(folder).eval()
    rows = {"img_embedding": [], "text_embedding": []}
    with torch.no_grad():
        first = model({"text": preprocessor.tokenize(["第0张"])})["text_embedding"]
        for batch in DataLoader(Pairs(paths, preprocessor), batch_size=3, num_workers=2):
            found = model(batch)  # of shape [3, 1, ...]
            for key, some in rows.items():
                some.append(found[key].cpu().numpy())
    images, texts = (np.concatenate(some) for some in rows.values())
    np.savez(output, images=images, texts=texts, first=first.cpu().numpy())
