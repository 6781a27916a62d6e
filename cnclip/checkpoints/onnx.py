"""ONNX, which other runtimes run: one file per tower. It is only written.

The folder has `image.onnx` and `text.onnx`, `vocab.txt`, and `cnclip.json` with the facts that a
program needs to prepare images and texts and to compare the rows. Where the weights of a tower are
above protobuf's limit of 2 GB, they are in a file next to it, with the suffix `.data`.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from .. import _core
from .._files import names_file
from ..modeling.clip import ChineseClip
from ..modeling.onnx_graph import (
    IDS,
    IR_VERSION,
    OPSET,
    PIXELS,
    ROWS,
    Graph,
    Weight,
    image_graph,
    text_graph,
)
from ..version import __version__
from .archive import build_model, describe_model
from .checkpoint import Checkpoint
from .files import ONNX_DATA_SUFFIX, ONNX_DESCRIPTION, ONNX_FORMAT, ONNX_TOWERS, VOCABULARY
from .onnx_check import largest_deviation, random_ids, random_pixels

if TYPE_CHECKING:
    from onnx import TensorProto, ValueInfoProto

FORMAT_VERSION = 1
# Bytes of weights in the file of a graph. Protobuf's limit is 2 GiB, with the nodes and names.
MAX_INSIDE = (2 << 30) - (16 << 20)
# Weights of fewer bytes are never outside. The others begin at a page, so that they can be mapped.
_MIN_OUTSIDE, _PAGE = 1 << 10, 1 << 12
_UNIT = "rows of unit length (L2): the inner product of two rows is their cosine"
_PREPARED = {
    "image": "RGB images, resized to a square with Pillow's bicubic filter, scaled to 0..1, minus "
    "the mean, divided by the standard deviation",
    "text": "ids of [CLS], the tokens and [SEP], then padding; more than the context length are "
    "cut before [SEP]",
}


def write_onnx(
    checkpoint: Checkpoint,
    directory: Path,
    file: Path,
    origin: dict[str, str],
    *,
    half: bool = False,
    allow_nonfinite: bool = False,
) -> None:
    """Write a checkpoint to an empty directory, and compare its rows with torch's.

    The weights are those of an archive: rounded to float16 where the format's software does.

    Args:
        checkpoint: The checkpoint, whose weights are removed from it.
        directory: The directory.
        file: The checkpoint's file or directory, for messages.
        origin: The result of `origin_of`, which the description records.
        half: Round linear layers, convolutions and BERT to float16, as ModelScope does, and store
            them in that type. The graph computes in float32.
        allow_nonfinite: Accept weights that are NaN or infinite.

    Raises:
        CheckpointError: the weights do not fit the model, or ONNX Runtime's rows are not torch's.
        OSError: a file cannot be written.
    """
    from onnx import TensorProto, helper

    if half:
        checkpoint = dataclasses.replace(checkpoint, rounds_to_half=True)
    model = build_model(checkpoint, file, allow_nonfinite=allow_nonfinite)
    description = _describe(checkpoint, model, file, half=half)
    config, side = checkpoint.config, checkpoint.config.vision.resolution
    images, texts = (directory / name for name in ONNX_TOWERS.values())
    deviations = {}

    shape = ["batch", 3, side, side]
    pixels = helper.make_tensor_value_info(PIXELS, TensorProto.FLOAT, shape, _PREPARED["image"])
    _write_tower(images, image_graph(model, half=half), pixels, description)
    model.visual.float()
    batches = random_pixels(side)
    deviations["image"] = largest_deviation(images, PIXELS, model.encode_image, batches, file)

    shape = ["batch", "length"]
    ids = helper.make_tensor_value_info(IDS, TensorProto.INT64, shape, _PREPARED["text"])
    _write_tower(texts, text_graph(model, half=half), ids, description)
    model.float()
    batches = random_ids(config.text.vocab_size, checkpoint.context_length, config.pad_id)
    deviations["text"] = largest_deviation(texts, IDS, model.encode_text, batches, file)

    description |= {"largest_deviation_from_torch": deviations, "source": origin}
    _write_small(directory / VOCABULARY, checkpoint.vocabulary)
    _write_small(directory / ONNX_DESCRIPTION, f"{json.dumps(description, indent=1)}\n".encode())


def _describe(
    checkpoint: Checkpoint, model: ChineseClip, file: Path, *, half: bool
) -> dict[str, Any]:
    described = describe_model(checkpoint, model, file)
    described["stored_dtypes"] = ["float16", "float32"] if half else ["float32"]
    tokenizer = _core.Tokenizer(checkpoint.vocabulary)
    return {
        "format": ONNX_FORMAT,
        "format_version": FORMAT_VERSION,
        "opset": OPSET,
        "output": f"{ROWS}: {_UNIT}",
        **{
            tower: {"file": ONNX_TOWERS[tower], "input": name, "prepared": _PREPARED[tower]}
            for tower, name in (("image", PIXELS), ("text", IDS))
        },
        "tokenizer": {
            "kind": "BERT WordPiece, lower case, without accents",
            "vocabulary": VOCABULARY,
            "pad_id": tokenizer.pad_id,
            "unk_id": tokenizer.unk_id,
            "cls_id": tokenizer.cls_id,
            "sep_id": tokenizer.sep_id,
        },
        **described,
    }


def _write_tower(
    path: Path, graph: Graph, input: ValueInfoProto, description: dict[str, Any]
) -> None:
    """Write the file of a tower, and that of its weights if they are large."""
    from onnx import TensorProto, helper

    shape = ["batch", description["embed_dim"]]
    rows = helper.make_tensor_value_info(ROWS, TensorProto.FLOAT, shape, _UNIT)
    model = helper.make_model(
        helper.make_graph(graph.nodes, path.stem, [input], [rows]),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="cnclip",
        producer_version=__version__,
        doc_string=f"{path.stem} tower of Chinese-CLIP: {_UNIT}",
    )
    facts = ("embed_dim", "image_resolution", "context_length", "temperature", "mean", "std")
    helper.set_model_props(model, {name: json.dumps(description[name]) for name in facts})
    stored = model.graph.initializer
    if sum(_size(weight) for weight in graph.weights.values()) <= MAX_INSIDE:
        for name, weight in graph.weights.items():
            _store(stored.add(), name, weight)
    else:
        data = path.with_name(path.name + ONNX_DATA_SUFFIX)
        with names_file(data), data.open("wb") as file:
            for name, weight in graph.weights.items():
                outside = file if _size(weight) >= _MIN_OUTSIDE else None
                _store(stored.add(), name, weight, outside)
    _write_small(path, model.SerializeToString())


def _size(weight: Weight) -> int:
    return weight.tensor.numel() * weight.dtype.itemsize


def _store(proto: TensorProto, name: str, weight: Weight, outside: BinaryIO | None = None) -> None:
    """Fill in the entry of a weight, and write its numbers there or to a file."""
    from onnx import TensorProto, helper

    values = weight.tensor.detach().to(weight.dtype).contiguous().numpy()
    proto.name, proto.data_type = name, helper.np_dtype_to_tensor_dtype(values.dtype)
    proto.dims.extend(values.shape)
    if outside is None:
        proto.raw_data = values.tobytes()
        return
    outside.write(bytes(-outside.tell() % _PAGE))
    place = {"location": Path(outside.name).name, "offset": outside.tell(), "length": values.nbytes}
    for key, value in place.items():
        proto.external_data.add(key=key, value=str(value))
    proto.data_location = TensorProto.EXTERNAL
    outside.write(values.data)


def _write_small(path: Path, content: bytes) -> None:
    with names_file(path):
        path.write_bytes(content)
