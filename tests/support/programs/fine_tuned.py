"""A model whose weights a program changes: the answers follow."""

import sys

import numpy as np
import torch
from modelscope.models import Model
from modelscope.pipelines import pipeline
from modelscope.utils.constant import ModeKeys, Tasks

output, image = sys.argv[1:]
model = Model.from_pretrained("damo/multi-modal_clip-vit-base-patch16_zh")
pixels = torch.from_numpy(np.load(image))
before = model({"img": pixels})["img_embedding"]
assert not before.requires_grad

model.train()
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
ids = torch.arange(100, 100 + 5 * len(pixels)).view(-1, 5)
trained = model({"img": pixels, "text": ids, "mode": ModeKeys.TRAIN})
logits = trained["logit_scale"] * trained["img_embedding"] @ trained["text_embedding"].t()
loss = torch.nn.functional.cross_entropy(logits, torch.arange(len(pixels)))
loss.backward()
optimizer.step()
model.eval()

after = model({"img": pixels})["img_embedding"]
pipe = pipeline(Tasks.multi_modal_embedding, model=model)
text = pipe.forward({"text": "猫"})["text_embedding"]
torch.save(model.state_dict(), output + ".pt")
other = Model.from_pretrained("damo/multi-modal_clip-vit-base-patch16_zh")
other.load_state_dict(torch.load(output + ".pt"))
np.savez(
    output,
    before=before.numpy(),
    after=after.numpy(),
    text=text.numpy(),
    restored=other({"img": pixels})["img_embedding"].numpy(),
)
