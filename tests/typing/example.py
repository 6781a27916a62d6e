"""Uses the public interface as a typed program would. Checked by mypy and pyright, never run."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnclip import CnclipError, OutputKeys, Tasks, load_image, pipeline
from cnclip import _core as core
from cnclip.pipelines import MultiModalEmbeddingPipeline
from cnclip.preprocessors import CLIPPreprocessor


def embed(model: Path) -> NDArray[np.float32]:
    p: MultiModalEmbeddingPipeline = pipeline(
        Tasks.multi_modal_embedding, model=model, device="cpu", num_threads=2
    )
    image: Image.Image = load_image("cat.png", timeout=3.0, max_bytes=1 << 20)
    answer: dict[str, Any] = p.forward({"img": [image, "cat.png", b"..."], "text": "猫"})
    lazily: dict[str, Any] = p.forward({"img": Path("photos").glob("*.jpg")}, batch_size=16)
    answers: list[dict[str, Any]] = p([{"text": "猫"}, {"img": image}], batch_size=4)
    embedding: NDArray[np.float32] = answer[OutputKeys.IMG_EMBEDDING]
    return embedding if answers and lazily else np.zeros((0, 0), np.float32)


def tokenize(model: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    preprocessor = CLIPPreprocessor(model)
    ids: NDArray[np.int64] = preprocessor.tokenize(["猫"], 24)
    try:
        return preprocessor.tokenize("猫", return_lengths=True)
    except CnclipError as error:
        print(error, ids.shape)
        raise


def use_core(vocabulary: bytes, path: Path) -> NDArray[np.float32]:
    tokenizer = core.Tokenizer(vocabulary)
    processor = core.ImageProcessor(224)
    engine = core.Engine("torch-2.13.so")
    if engine.device_count("cuda"):
        print(engine.name)
    encoder = core.Encoder(engine, path, tokenizer, 512, 52, device="cpu", num_threads=1)
    threads: int = encoder.num_threads + tokenizer.pad_id + processor.resolution
    pixels: NDArray[np.float32] = processor.process([np.zeros((4, 4, 3), np.uint8)])
    processor.process([Image.new("RGB", (4, 4))], out=pixels)
    resized: NDArray[np.uint8] = processor.resize([Image.new("RGB", (4, 4))])
    core.Encoder(engine, path, tokenizer, 512, 52, image_processor=processor).encode_pixels(resized)
    rows: NDArray[np.float32] = encoder.encode_texts(["猫"], batch_size=threads)
    rows = encoder.encode_ids(tokenizer.encode(["猫"])[0], batch_size=1)
    return rows if pixels.size else encoder.encode_pixels(pixels)
