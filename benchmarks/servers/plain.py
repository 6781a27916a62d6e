"""The service that one writes first: FastAPI and transformers, one call of the model per request.

    python benchmarks/servers/plain.py MODEL PORT

MODEL is a directory of Hugging Face. Routes are functions without async, so FastAPI calls them on
threads.
"""

from __future__ import annotations

import io
import sys
from typing import Annotated

import torch
import uvicorn
from fastapi import Body, FastAPI, File
from PIL import Image
from torch import Tensor
from transformers import ChineseCLIPModel, ChineseCLIPProcessor

app = FastAPI()
model = ChineseCLIPModel.from_pretrained(sys.argv[1]).eval()
processor = ChineseCLIPProcessor.from_pretrained(sys.argv[1])


def answer_of(features: Tensor) -> dict[str, list[float]]:
    features = getattr(features, "pooler_output", features)  # transformers 5 returns an object
    return {"embedding": torch.nn.functional.normalize(features, dim=-1)[0].tolist()}


@app.post("/text")
def embed_text(text: Annotated[str, Body(embed=True)]) -> dict[str, list[float]]:
    inputs = processor(
        text=[text], padding=True, truncation=True, max_length=52, return_tensors="pt"
    )
    with torch.inference_mode():
        return answer_of(model.get_text_features(**inputs))


@app.post("/image")
def embed_image(file: Annotated[bytes, File()]) -> dict[str, list[float]]:
    image = Image.open(io.BytesIO(file)).convert("RGB")
    inputs = processor(images=[image], return_tensors="pt")
    with torch.inference_mode():
        return answer_of(model.get_image_features(**inputs))


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
