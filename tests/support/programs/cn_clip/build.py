"""A model built from the names of its towers and the content of a file."""

import json

import torch
from cn_clip.clip.utils import _MODEL_INFO, create_model, image_transform
from PIL import Image

info = _MODEL_INFO["ViT-B-16"]
checkpoint = torch.load("clip_cn_vit-b-16.pt", map_location="cpu", weights_only=True)
model = create_model(info["struct"], checkpoint)
types = sorted({str(value.dtype) for value in model.state_dict().values()})
model = model.float().eval()
transform = image_transform(model.visual.input_resolution)
image = transform(Image.open("cat.png").convert("P"))
with torch.no_grad():
    rows = model.encode_image(torch.stack([image, image.flip(-1)]))
tokens = model.tokenizer.tokenize("两只playful的猫，unaffable")
ids = model.tokenizer.convert_tokens_to_ids(tokens)
print(
    json.dumps(
        {
            "rows": rows.tolist(),
            "types": types,
            "tokens": tokens,
            "ids": ids,
            "padding": model.tokenizer.vocab["[PAD]"],
            "size": info["input_resolution"],
            "pixels": [float(image.double().sum()), list(image.shape)],
        },
        ensure_ascii=False,
    )
)
