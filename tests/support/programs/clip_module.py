"""The towers themselves: token ids by hand, rows before normalising, weights, gradients."""

import sys

import numpy as np
import torch
from modelscope.hub.snapshot_download import snapshot_download
from modelscope.models.multi_modal import CLIPForMultiModalEmbedding
from modelscope.pipelines import pipeline
from modelscope.utils.constant import Tasks

output, image, *texts = sys.argv[1:]
folder = snapshot_download("damo/multi-modal_clip-vit-base-patch16_zh")
model = CLIPForMultiModalEmbedding(model_dir=folder)
model.eval()
side = model.clip_model.visual.input_resolution


def tokenize(texts, length=52):
    vocab = model.tokenizer.vocab
    ids = torch.zeros(len(texts), length, dtype=torch.long)
    for row, text in enumerate(texts):
        tokens = model.tokenizer.convert_tokens_to_ids(model.tokenizer.tokenize(text))
        line = [vocab["[CLS]"], *tokens[: length - 2], vocab["[SEP]"]]
        ids[row, : len(line)] = torch.tensor(line)
    return ids


pixels = torch.from_numpy(np.load(image))
assert tuple(pixels.shape[1:]) == (3, side, side)
ids = tokenize(texts)
with torch.no_grad():
    image_rows = model.clip_model.encode_image(pixels)
    text_rows = model.clip_model.encode_text(ids)
    units = model({"img": pixels})["img_embedding"]

adversarial = pixels.clone().requires_grad_(True)
rows = model.clip_model.encode_image(adversarial)
rows = rows / rows.norm(dim=-1, keepdim=True)
target = text_rows / text_rows.norm(dim=-1, keepdim=True)
(rows @ target.t()).sum().backward()

state = model.state_dict()
pipe = pipeline(Tasks.multi_modal_embedding, model=model)
np.savez(
    output,
    ids=ids.numpy(),
    image_rows=image_rows.numpy(),
    text_rows=text_rows.numpy(),
    units=units.numpy(),
    gradient=adversarial.grad.numpy(),
    names=list(state),
    logit_scale=state["clip_model.logit_scale"].numpy(),
    texts=pipe.forward({"text": texts})["text_embedding"].numpy(),
)
