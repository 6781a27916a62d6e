"""Some steps of contrastive training with a frozen vision tower, then saved and opened again."""

import json

import cn_clip.clip as clip
import torch
import torch.nn.functional as F
from cn_clip.clip import load_from_name
from cn_clip.clip.model import convert_models_to_fp32
from PIL import Image

PAIRS = {"cat": "一只小猫", "dog": "一只小狗", "car": "红色的汽车", "cake": "生日蛋糕"}

model, preprocess = load_from_name("ViT-B-16", device="cpu", download_root=".")
convert_models_to_fp32(model)
model.eval()  # the same numbers in every run: no dropout
for name, parameter in model.named_parameters():
    parameter.requires_grad = not name.startswith("visual.")
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01)
images = torch.stack([preprocess(Image.open(f"photos/{name}.png")) for name in PAIRS])
texts = clip.tokenize(list(PAIRS.values()))
losses = []
for _ in range(3):
    image_features, text_features, logit_scale = model(images, texts)
    logits = logit_scale * image_features @ text_features.t()
    targets = torch.arange(len(PAIRS))
    loss = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.t(), targets)) / 2
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
names = {name: list(value.shape) for name, value in model.state_dict().items()}
names = {name: shape for name, shape in names.items() if "pooler" not in name}
torch.save({"epoch": 3, "state_dict": model.state_dict()}, "clip_cn_vit-l-14.pt")
with torch.no_grad():
    after = model.encode_text(texts).tolist()
    again, _ = load_from_name("ViT-L-14", device="cpu", download_root=".")
    again.eval()
    stored = again.encode_text(texts).tolist()
shapes = [f"{name} {shape}" for name, shape in sorted(names.items())]
print(json.dumps({"losses": losses, "after": after, "stored": stored, "names": shapes}))
