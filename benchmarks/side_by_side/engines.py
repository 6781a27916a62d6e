"""The engines, one class each. Each engine imports its packages in its methods."""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]


class Engine:
    """The interface for worker.py. `image` and `text` embed the first `count` inputs.

    `abilities` are the cases that the engine can run: image, text, start, preprocess, tokenize;
    on a GPU also prepared, images without preprocessing.
    """

    abilities: tuple[str, ...] = ("image", "text", "start")
    packages: tuple[str, ...] = ()
    image: Callable[[int], Rows]
    prepared: Callable[[int], Rows]
    text: Callable[[int, int], Rows]

    def __init__(self, data: Path, threads: int, precision: str) -> None:
        self.data, self.threads, self.precision = data, threads, precision
        self.device = os.environ.get("SIDE_BY_SIDE_DEVICE", "cpu")

    def prepare(self) -> None:
        """Write what `load` reads."""

    def load(self) -> None:
        """Open the model and its inputs."""

    def versions(self) -> dict[str, str]:
        return {name: importlib.metadata.version(name) for name in self.packages}

    def open_images(self) -> list[Any]:
        from PIL import Image

        return [Image.fromarray(image) for image in np.load(self.data / "images.npy")]

    def read_texts(self) -> dict[int, list[str]]:
        texts = json.loads((self.data / "texts.json").read_text())
        return {int(tokens): some for tokens, some in texts.items()}

    def read_titles(self) -> list[str]:
        titles: list[str] = json.loads((self.data / "titles.json").read_text())
        return titles

    def read_arrays(self) -> None:
        """Read preprocessed inputs, for engines without preprocessing."""
        self.pixels = np.load(self.data / "pixels.npy")
        self.ids = {tokens: np.load(self.data / f"ids{tokens}.npy") for tokens in (12, 52)}


class Cnclip(Engine):
    """End to end."""

    abilities: tuple[str, ...] = ("image", "text", "start", "preprocess", "tokenize")
    packages = ("cnclip", "torch", "pillow")

    def load(self) -> None:
        from cnclip import pipeline

        self.pipeline = pipeline(
            model=self.data / "model",
            device=self.device,
            precision=self.precision,
            num_threads=self.threads,
        )
        self.images, self.texts = self.open_images(), self.read_texts()
        self.titles = self.read_titles()
        if self.precision != "fp32":  # preprocessing is the same in every precision
            self.abilities = ("image", "text", "start")
        if self.device != "cpu":
            self.abilities = ("image", "text", "start", "prepared")
            self.pixels = self.pipeline.preprocessor.image_processor.resize(self.images)

    def image(self, count: int) -> Rows:
        rows: Rows = self.pipeline.forward({"img": self.images[:count]})["img_embedding"]
        return rows

    def prepared(self, count: int) -> Rows:
        rows: Rows = self.pipeline.model.encoder.encode_pixels(self.pixels[:count])
        return rows

    def text(self, tokens: int, count: int) -> Rows:
        rows: Rows = self.pipeline.forward({"text": self.texts[tokens][:count]})["text_embedding"]
        return rows

    def preprocess(self, count: int) -> None:
        self.pipeline.preprocess({"img": self.images[:count]})

    def tokenize(self, count: int) -> None:
        self.pipeline.preprocess({"text": self.titles[:count]})


class ModelScope(Engine):
    """End to end, by the model card's call. Texts are always padded to 52 tokens."""

    abilities = ("image", "text", "start", "preprocess", "tokenize")
    packages = ("modelscope", "torch", "torchvision", "pillow")

    def load(self) -> None:
        import torch
        from modelscope.pipelines import pipeline
        from modelscope.utils.constant import Tasks

        torch.set_num_threads(self.threads)
        self.pipeline = pipeline(
            task=Tasks.multi_modal_embedding, model=str(self.data / "model"), device="cpu"
        )
        self.images, self.texts = self.open_images(), self.read_texts()
        self.titles = self.read_titles()

    def image(self, count: int) -> Rows:
        rows: Rows = self.pipeline.forward({"img": self.images[:count]})["img_embedding"].numpy()
        return rows

    def text(self, tokens: int, count: int) -> Rows:
        texts = self.texts[tokens][:count]
        rows: Rows = self.pipeline.forward({"text": texts})["text_embedding"].numpy()
        return rows

    def preprocess(self, count: int) -> None:
        self._on_one_thread({"img": self.images[:count]})

    def tokenize(self, count: int) -> None:
        self._on_one_thread({"text": self.titles[:count]})

    def _on_one_thread(self, items: dict[str, Any]) -> None:
        import torch

        torch.set_num_threads(1)
        self.pipeline.preprocess(items)
        torch.set_num_threads(self.threads)


class Transformers(Engine):
    """Model only, from preprocessed pixels and token ids. Texts without padding.

    On a GPU the pixels and ids are there already, in the model's type, which favours this engine.
    """

    packages = ("transformers", "torch")

    def prepare(self) -> None:
        from weights import export_onnx, read_chinese_clip

        model = read_chinese_clip(self.data / "model")
        model.save_pretrained(self.data / "transformers")
        if self.device == "cpu":  # no engine of a GPU reads the files
            export_onnx(model, self.data)

    def load(self) -> None:
        import torch
        from transformers import ChineseCLIPModel
        from weights import ImageTower, TextTower

        torch.set_num_threads(self.threads)
        precision, _, compiled = self.precision.partition("-")
        types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        self.dtype = types[precision]
        model = ChineseCLIPModel.from_pretrained(
            self.data / "transformers", attn_implementation="sdpa", dtype=self.dtype
        )
        model.eval().to(self.device)
        self.towers: tuple[Any, Any] = (ImageTower(model), TextTower(model))
        if compiled:
            self.towers = (torch.compile(self.towers[0]), torch.compile(self.towers[1]))
        self.read_arrays()
        self.pixels = torch.from_numpy(self.pixels).to(self.device, self.dtype)
        self.ids = {n: torch.from_numpy(ids).to(self.device) for n, ids in self.ids.items()}
        if self.device != "cpu":
            self.abilities = ("prepared", "text")

    def image(self, count: int) -> Rows:
        return self._run(self.towers[0], self.pixels[:count])

    def prepared(self, count: int) -> Rows:
        return self.image(count)

    def text(self, tokens: int, count: int) -> Rows:
        return self._run(self.towers[1], self.ids[tokens][:count])

    def _run(self, tower: Any, tensor: Any) -> Rows:
        import torch

        with torch.inference_mode():
            rows: Rows = tower(tensor).float().cpu().numpy()
        return rows


class OnnxRuntime(Engine):
    """Model only, from the ONNX files that transformers' model was exported to."""

    packages = ("onnxruntime",)

    def load(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        # Spinning threads would slow down the next engine.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self.sessions = {
            name: onnxruntime.InferenceSession(
                onnx_file(self.data, name), options, providers=["CPUExecutionProvider"]
            )
            for name in ("image", "text")
        }
        self.read_arrays()

    def image(self, count: int) -> Rows:
        return self._run("image", self.pixels[:count])

    def text(self, tokens: int, count: int) -> Rows:
        return self._run("text", self.ids[tokens][:count])

    def _run(self, name: str, array: NDArray[Any]) -> Rows:
        rows: Rows = self.sessions[name].run(None, {"input": array})[0]
        return rows


class OpenVino(Engine):
    """Model only, from the same ONNX files, compiled for each shape.

    int8 is quantized by nncf after training, calibrated with the benchmark's inputs; the remaining
    floating-point operations are computed in bf16.
    """

    packages = ("openvino",)

    def prepare(self) -> None:
        if self.precision != "int8":
            return
        import nncf
        import openvino

        self.read_arrays()
        inputs: dict[str, list[NDArray[Any]]] = {
            "image": [self.pixels[i : i + 1] for i in range(len(self.pixels))],
            "text": [ids[i : i + 1] for ids in self.ids.values() for i in range(len(ids))],
        }
        for name, items in inputs.items():
            quantized = nncf.quantize(
                openvino.Core().read_model(onnx_file(self.data, name)),
                nncf.Dataset(items),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(items),
            )
            openvino.save_model(quantized, self.data / f"{name}-int8.xml", compress_to_fp16=False)

    def load(self) -> None:
        import openvino

        self.core = openvino.Core()
        self.properties = {
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": "f32" if self.precision == "fp32" else "bf16",
            "PERFORMANCE_HINT": "LATENCY",
        }
        self.compiled: dict[tuple[int, ...], Any] = {}
        self.read_arrays()

    def image(self, count: int) -> Rows:
        return self._run("image", self.pixels[:count])

    def text(self, tokens: int, count: int) -> Rows:
        return self._run("text", self.ids[tokens][:count])

    def _run(self, name: str, array: NDArray[Any]) -> Rows:
        if array.shape not in self.compiled:
            path = onnx_file(self.data, name)
            if self.precision == "int8":
                path = self.data / f"{name}-int8.xml"
            model = self.core.read_model(path)
            model.reshape(array.shape)
            compiled = self.core.compile_model(model, "CPU", self.properties)
            self.compiled[array.shape] = compiled.create_infer_request()
        rows: Rows = self.compiled[array.shape].infer([array])[0]
        return rows


class Tokenizers(Engine):
    """Hugging Face's tokenizers, BERT's WordPiece, the ids as an int64 array of 52 columns."""

    abilities = ("tokenize",)
    packages = ("tokenizers",)

    def load(self) -> None:
        from tokenizers import BertWordPieceTokenizer

        self.tokenizer = BertWordPieceTokenizer(str(self.data / "model" / "vocab.txt"))
        self.tokenizer.enable_truncation(52)
        self.tokenizer.enable_padding(length=52)
        self.titles = self.read_titles()

    def tokenize(self, count: int) -> None:
        encoded = self.tokenizer.encode_batch(self.titles[:count])
        np.array([item.ids for item in encoded], np.int64)


def onnx_file(data: Path, name: str) -> Path:
    path = data / f"{name}.onnx"
    if not path.exists():
        raise FileNotFoundError("no ONNX files: run the engine transformers, which exports them")
    return path


FAMILIES: dict[str, type[Engine]] = {
    "cnclip": Cnclip,
    "modelscope": ModelScope,
    "transformers": Transformers,
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "tokenizers": Tokenizers,
}


def make_engine(name: str, data: Path, threads: int) -> Engine:
    family, _, precision = name.partition("-")
    return FAMILIES[family](data, threads, precision or "fp32")
