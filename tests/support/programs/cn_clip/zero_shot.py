"""Classes as the mean of several texts each."""

import json

import torch
from cn_clip.clip import load_from_name, tokenize
from PIL import Image

CLASSES = ["猫", "狗", "汽车", "苹果"]
TEMPLATES = ["{}", "一张{}的照片", "这是{}", "一张模糊的{}的照片，看不清楚"]

model, preprocess = load_from_name(name="ViT-B-16", device=torch.device("cpu"), download_root=".")
model.eval()
weights = []
with torch.no_grad():
    for name in CLASSES:
        features = model.encode_text(tokenize([t.format(name) for t in TEMPLATES]))
        features = torch.nn.functional.normalize(features, dim=-1).mean(dim=0)
        weights.append(features / features.norm())
    classifier = torch.stack(weights, dim=1)
    batch = torch.stack([preprocess(Image.open(f"photos/{n}.png")) for n in ("cat", "apple")])
    images = model.encode_image(batch)
    images = images / images.norm(dim=-1, keepdim=True)
    logits = 100.0 * images @ classifier
print(json.dumps({"logits": logits.tolist()}))
