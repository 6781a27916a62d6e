"""A training loop of the program's own, its weights saved and loaded again."""

import random
import sys

import numpy as np
import torch
from modelscope.models import Model
from modelscope.outputs import OutputKeys
from modelscope.preprocessors.multi_modal import CLIPPreprocessor
from modelscope.utils.constant import ModeKeys
from PIL import Image

NAME = "damo/multi-modal_clip-vit-base-patch16_zh"
weights, output, *paths = sys.argv[1:]
torch.manual_seed(0)
random.seed(0)
model = Model.from_pretrained(NAME)
preprocessor = CLIPPreprocessor(model.model_dir, mode=ModeKeys.TRAIN)
biases = [value for _, value in model.named_parameters() if value.ndim < 2]
others = [value for _, value in model.named_parameters() if value.ndim >= 2]
groups = [{"params": others, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0}]
optimizer = torch.optim.AdamW(groups, lr=1e-4)
texts = [f"第{number}张图" for number in range(len(paths))]
ids = preprocessor.tokenize(texts)
start = model({"text": ids})[OutputKeys.TEXT_EMBEDDING]
model.train()
losses = []
for _ in range(4):
    batch = preprocessor({"img": [Image.open(path) for path in paths], "text": texts})
    found = model({**batch, "mode": ModeKeys.TRAIN})
    images, rows = found[OutputKeys.IMG_EMBEDDING], found[OutputKeys.TEXT_EMBEDDING]
    logits = found["logit_scale"] * images @ rows.t()
    right = torch.arange(len(paths))
    loss = (
        torch.nn.functional.cross_entropy(logits, right)
        + torch.nn.functional.cross_entropy(logits.t(), right)
    ) / 2
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    losses.append(loss.item())
torch.save({"state_dict": model.state_dict(), "step": len(losses)}, weights)
model.eval()
with torch.no_grad():
    trained = model({"text": ids})[OutputKeys.TEXT_EMBEDDING]
again = Model.from_pretrained(NAME)
again.load_state_dict(torch.load(weights, map_location="cpu")["state_dict"])
with torch.no_grad():
    restored = again({"text": ids})[OutputKeys.TEXT_EMBEDDING]
np.savez(
    output,
    losses=losses,
    start=start.numpy(),
    trained=trained.numpy(),
    restored=restored.numpy(),
)
