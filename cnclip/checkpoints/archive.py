"""cnclip's archives: written from a `Checkpoint`, and read as one.

Reading an archive as a checkpoint makes it possible to convert it to the formats of other
software.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path
from typing import Any

import torch

from .. import _core
from .._temporaries import scratch_directory
from .._text import first_line
from ..archive import (
    FORMAT_VERSION,
    METADATA,
    TEMPERATURES,
    VOCABULARY,
    check_archive,
    read_archive,
)
from ..engine import open_engine
from ..errors import ArchiveError, CheckpointError
from ..modeling.clip import ChineseClip, half_precision_names
from ..modeling.config import ClipConfig, TextConfig, VisionConfig
from ..modeling.lower import OPERATORS, lower, torchscript
from ..version import __version__
from .checkpoint import Checkpoint, Weights, check_tensors, empty_model
from .config_file import ConfigFile, read_text_config, read_vision_config
from .vocabulary import check_ids

# Bounds on the parts of an archive other than tensors: a header for each, and the code.
_MAX_HEADER = 1 << 10
_MAX_CODE = 1 << 20


def write_archive(
    checkpoint: Checkpoint,
    output: Path,
    file: Path,
    origin: dict[str, str],
    *,
    allow_nonfinite: bool = False,
) -> None:
    """Write the archive of a checkpoint.

    Args:
        checkpoint: The checkpoint. Its weights are removed from it, so that memory never holds all
            of them in two types.
        output: The file to write.
        file: The checkpoint's file or directory, for messages.
        origin: The result of `origin_of`, which the archive records.
        allow_nonfinite: Accept weights that are NaN or infinite.

    Raises:
        CheckpointError: the weights do not fit the model; names the tensor.
        OSError: the file cannot be written.
    """
    model = build_model(checkpoint, file, allow_nonfinite=allow_nonfinite)
    metadata = {"format": FORMAT_VERSION, **describe_model(checkpoint, model, file)}
    metadata |= {"operators": list(OPERATORS), "source": origin}
    _save(model, metadata, checkpoint.vocabulary, output)


def check_weights(checkpoint: Checkpoint, file: Path, *, allow_nonfinite: bool = False) -> None:
    """Raise a CheckpointError if the weights do not fit the model."""
    weights = _fitting(empty_model(checkpoint.config), checkpoint.weights, file)
    if not allow_nonfinite:
        _check_finite(weights, file)
    _temperature(weights, file)


def build_model(checkpoint: Checkpoint, file: Path, *, allow_nonfinite: bool) -> ChineseClip:
    """The model with the checkpoint's weights, each of the type that an archive stores.

    Args:
        checkpoint: The checkpoint. Its weights are removed from it, so that memory never holds all
            of them in two types.
        file: The checkpoint's file or directory, for messages.
        allow_nonfinite: Accept weights that are NaN or infinite.

    Raises:
        CheckpointError: the weights do not fit the model; names the tensor.
    """
    model = empty_model(checkpoint.config)
    weights = _fitting(model, checkpoint.weights, file)
    checkpoint.weights.clear()  # so that each tensor is freed once it is converted
    if checkpoint.rounds_to_half:
        for name in half_precision_names(model):
            weights[name] = weights[name].half()
    if not allow_nonfinite:
        _check_finite(weights, file)
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)


def _fitting(model: ChineseClip, weights: Weights, file: Path) -> Weights:
    """The weights of the model in float16 or float32."""
    wanted = model.state_dict()
    # BatchNorm counts training batches; embedding does not use the counts.
    counters = [name for name in wanted if name.endswith("num_batches_tracked")]
    shapes = {name: tensor.shape for name, tensor in wanted.items()}
    check_tensors(weights, shapes, file, optional=counters)
    fitting = {name: torch.zeros((), dtype=torch.long) for name in counters}
    for name in wanted.keys() - fitting.keys():
        half = weights[name].dtype == torch.float16
        fitting[name] = weights[name] if half else weights[name].float()
    return fitting


def _temperature(weights: Weights, file: Path) -> float:
    """The divisor of similarities before a softmax."""
    logit_scale = weights["logit_scale"].float()
    temperature = float(1.0 / logit_scale.exp())
    if not TEMPERATURES[0] <= temperature <= TEMPERATURES[1]:
        raise CheckpointError(f"logit_scale {float(logit_scale):g} is out of range", file=file)
    return temperature


def _check_finite(weights: Weights, file: Path) -> None:
    """Raise a CheckpointError that names a tensor with NaN or infinite values.

    In fp32 embeddings would be NaN; quantised, they would be wrong without notice.
    """
    for name, tensor in sorted(weights.items()):
        if not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        if not all(bool(extreme.isfinite()) for extreme in tensor.aminmax()):
            raise CheckpointError(f"{name} has NaN or infinite values as {tensor.dtype}", file=file)


def describe_model(checkpoint: Checkpoint, model: ChineseClip, file: Path) -> dict[str, Any]:
    """The metadata of a model that `build_model` returned, as JSON has it.

    Raises:
        CheckpointError: the word embedding has too few rows for the vocabulary.
    """
    config = checkpoint.config
    check_ids(_core.Tokenizer(checkpoint.vocabulary), config.text.vocab_size, file)
    stored = {value.dtype for value in model.state_dict().values() if value.is_floating_point()}
    described = {"normalized_texts": True} if checkpoint.normalized_texts else {}
    return described | {
        "cnclip": __version__,
        "torch": torch.__version__,
        "embed_dim": config.embed_dim,
        "image_resolution": config.vision.resolution,
        "context_length": checkpoint.context_length,
        "temperature": _temperature(model.state_dict(), file),
        "mean": checkpoint.mean,
        "std": checkpoint.std,
        "parameters": sum(value.numel() for value in model.parameters()),
        "stored_dtypes": sorted(str(dtype).removeprefix("torch.") for dtype in stored),
        "architecture": dataclasses.asdict(config),
    }


def _save(model: ChineseClip, metadata: dict[str, Any], vocabulary: bytes, output: Path) -> None:
    size = sum(tensor.nbytes + _MAX_HEADER for tensor in model.state_dict().values())
    _reserve(output, size + len(vocabulary) + _MAX_CODE)
    graph = lower(model)
    extra = {METADATA: json.dumps(metadata, indent=1), VOCABULARY: vocabulary}
    with scratch_directory() as directory:
        # libtorch takes names in UTF-8 only, and names the parts of an archive after its file.
        name = directory / "archive"
        name.symlink_to(output.absolute())
        try:
            graph._c.save(str(name), extra)
        except RuntimeError as error:  # it cannot be opened
            raise OSError(errno.EIO, first_line(error), str(output)) from error


def _reserve(output: Path, size: int) -> None:
    """Raise an OSError if the disk, a quota or a limit does not allow a file of this size.

    libtorch ends the process when a write fails, and its only other way to save a graph holds
    copies of the whole archive in memory. So the space is allocated before; libtorch frees it again
    when it opens the file, and only a disk that becomes full in the meantime ends the process.
    """
    with output.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)


def read_archived(path: Path) -> Checkpoint:
    """Read an archive, which runs code in it.

    Raises:
        ArchiveError: it is damaged, or not an archive.
    """
    info = read_archive(path)
    check_archive(path)
    try:
        config = _config(
            ConfigFile(path, info.metadata["architecture"], f"{METADATA}: architecture")
        )
        open_engine()  # which registers the operators of its graph
        with torchscript():
            module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
        weights = dict(module.state_dict())
    except MemoryError:
        raise
    except CheckpointError as error:  # a value of the architecture
        raise ArchiveError(f"damaged: {error.reason}", error.where) from error
    except Exception as error:  # torch raises many types for damaged files
        raise ArchiveError(f"damaged: {first_line(error)}", file=path) from error
    return Checkpoint(
        config=config,
        weights=weights,
        vocabulary=info.vocabulary,
        rounds_to_half=False,
        mean=info.mean,
        std=info.std,
        max_text_ids=info.context_length,
        normalized_texts=info.normalizes_texts,
    )


def _config(values: ConfigFile) -> ClipConfig:
    return ClipConfig(
        embed_dim=values.size("embed_dim"),
        vision=read_vision_config(values.part("vision"), _own_names(VisionConfig)),
        text=read_text_config(values.part("text"), _own_names(TextConfig)),
        pad_id=values.size("pad_id", at_least=0),
    )


def _own_names(config: type[VisionConfig | TextConfig]) -> dict[str, str]:
    return {field.name: field.name for field in dataclasses.fields(config)}
