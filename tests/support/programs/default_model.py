"""The task's default model, once on each kind of device name, and as objects of torch."""

import sys

import numpy as np
import torch
from modelscope.pipelines import pipeline
from modelscope.utils.constant import Tasks

rows = []
for device in ("gpu", "cuda", "cuda:0", "cpu", *map(torch.device, sys.argv[1:]), None):
    pipe = pipeline(Tasks.multi_modal_embedding, device=device)
    both = pipe.forward({"text": ["皮卡丘"]})
    assert both["img_embedding"] is None
    assert both["text_embedding"].device.type == pipe.device.type
    rows.append(both["text_embedding"].cpu().numpy())
assert all(np.array_equal(rows[0], row) for row in rows)
print(" ".join(f"{value:.7f}" for value in rows[0][0, :4]))
