"""The gradient of a similarity with respect to the pixels, and features from a hook."""

import json

import cn_clip.clip as cn
from PIL import Image

net, transform = cn.load_from_name("ViT-B-16", device="cpu", download_root=".")
net.eval()
seen = []
net.visual.ln_post.register_forward_hook(lambda module, inputs, output: seen.append(output))
pixels = transform(Image.open("cat.png"))[None].requires_grad_()
ids = cn.tokenize(["猫"], context_length=24)
image, text, scale = net(pixels, ids)
(image @ text.t() * scale).sum().backward()
saliency = pixels.grad.abs().amax(dim=1)[0]
only_text = net(None, ids)
only_image = net(pixels.detach(), None)
print(
    json.dumps(
        {
            "saliency": saliency.mean(dim=0).tolist(),
            "hooked": seen[0][0].tolist(),
            "text": only_text[0].tolist(),
            "image": only_image[0].tolist(),
            "ids": ids.tolist(),
            "resolution": net.visual.input_resolution,
        }
    )
)
