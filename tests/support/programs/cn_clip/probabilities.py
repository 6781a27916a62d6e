"""Which of some texts fits an image: the use that cn_clip's documentation begins with."""

import json

import cn_clip.clip as clip
import torch
from cn_clip.clip import available_models, load_from_name
from PIL import Image

device = "cpu"
assert "ViT-B-16" in available_models()
model, preprocess = load_from_name("ViT-B-16", device=device, download_root="./")
model.eval()
image = preprocess(Image.open("cat.png")).unsqueeze(0).to(device)
texts = clip.tokenize(["一只猫", "一只狗", "一辆红色的汽车", "蛋糕"]).to(device)

with torch.no_grad():
    image_features = model.encode_image(image)
    text_features = model.encode_text(texts)
    image_features /= image_features.norm(dim=-1, keepdim=True)
    text_features /= text_features.norm(dim=-1, keepdim=True)
    logits, logits_per_text = model.get_similarity(image, texts)
    probabilities = logits.softmax(dim=-1).cpu().numpy()

assert torch.equal(logits_per_text, logits.t())
cosines = (image_features @ text_features.t())[0]
assert torch.allclose(cosines * model.logit_scale.exp(), logits[0], atol=1e-4)
print(json.dumps({"probabilities": probabilities.tolist(), "cosines": cosines.tolist()}))
