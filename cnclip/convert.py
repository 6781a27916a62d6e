"""Checkpoint to archive: the one place that needs Python's torch, once for each model."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import cache
from .archive import (
    FORMAT_VERSION,
    METADATA,
    VOCABULARY,
    ArchiveInfo,
    read_archive,
)
from .checkpoints.files import checkpoint_files
from .errors import CheckpointError, InputTypeError, ModelNotFoundError
from .version import __version__

if TYPE_CHECKING:
    import torch

    from .checkpoints.checkpoint import Checkpoint
    from .modeling import ChineseClip

logger = logging.getLogger("cnclip")

# Of CLIP's pictures, scaled to 0..1: red, green, blue.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
CONTEXT_LENGTH = 52

SHIPPED_MODELS = {"emoji-cn": Path(__file__).parent / "demo" / "emoji-cn"}


def find_model(name: str | Path) -> Path:
    """The archive or checkpoint directory that a model's name stands for.

    A shipped model's name comes before a path; write `./emoji-cn` for a folder of that name.

    Raises:
        ModelNotFoundError: neither a shipped model nor a path.
    """
    if str(name) in SHIPPED_MODELS:
        return SHIPPED_MODELS[str(name)]
    if not isinstance(name, str | os.PathLike):
        raise InputTypeError(f"model: expected a name or path, got {type(name).__name__}")
    path = Path(name)
    try:
        path = path.expanduser()
        exists = path.exists()
    except (OSError, RuntimeError):  # a name too long, or of a user who does not exist
        exists = False
    if not exists:
        raise ModelNotFoundError(
            f"no model {str(name)!r}: neither an existing path nor one of the shipped models "
            f"({', '.join(SHIPPED_MODELS)}); download the model's directory and give its path"
        )
    return path


def open_archive(name: str | Path) -> ArchiveInfo:
    """The archive of a model, converted now if it is a checkpoint that has not been seen before.

    Args:
        name: An archive, a ModelScope model directory, or a shipped model's name.

    Raises:
        ModelNotFoundError: there is nothing under this name.
        ArchiveError: a file that is not an archive.
        CheckpointError: the directory cannot be converted.
    """
    path = find_model(name)
    if not path.is_dir():
        info = read_archive(path)
        cache.check_once(path)
        return info
    source = path.resolve()
    digest = _digest_of(source)
    return read_archive(
        cache.cached_archive(source.name, digest, lambda out: _write_archive(source, out, digest))
    )


def convert(source: str | Path, output: str | Path) -> ArchiveInfo:
    """Convert a checkpoint to an archive.

    Args:
        source: A ModelScope model directory, or a shipped model's name.
        output: The archive to write, replaced as a whole when the conversion is done.

    Raises:
        ModelNotFoundError: there is no such source.
        CheckpointError: the source cannot be converted; names the file or tensor.
        OSError: the archive cannot be written.
    """
    path, target = find_model(source), Path(output)
    if not path.is_dir():
        raise CheckpointError(f"{path}: expected a model directory, found a file")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target}: there is no directory {target.parent}")
    with cache.replaced_atomically(target, mode=0o666) as temporary:
        _write_archive(path.resolve(), temporary, _digest_of(path))
    return read_archive(target)


def _digest_of(source: Path) -> str:
    """The digest of a checkpoint's content."""
    files = checkpoint_files(source)
    try:
        return cache.digest_of(files)
    except OSError as error:
        raise CheckpointError(f"{source}: cannot be read: {error}") from error


def _write_archive(source: Path, output: Path, digest: str) -> None:
    """Write the archive of a ModelScope directory to `output`."""
    from .checkpoints.modelscope import read_modelscope

    logger.info("converting %s", source)
    checkpoint = read_modelscope(source)
    model = _build(checkpoint, source)
    metadata = _metadata(checkpoint, model, source)
    metadata["source"] = {"format": checkpoint.format, "name": source.name, "digest": digest}
    output.write_bytes(_serialize(model, metadata, checkpoint.vocabulary))


def _build(checkpoint: Checkpoint, source: Path) -> ChineseClip:
    """The model with the checkpoint's weights in it, each of the type that is to be stored."""
    import torch

    from .modeling.clip import ChineseClip, half_precision_names

    # On the meta device nothing is allocated: the checkpoint's own tensors become the parameters.
    with torch.device("meta"):
        model = ChineseClip(checkpoint.config)
    weights = _check_weights(model, checkpoint.weights, source)
    if checkpoint.rounds_to_half:
        for name in half_precision_names(model):
            weights[name] = weights[name].half()
    _check_finite(weights, source)
    model.load_state_dict(weights, assign=True)
    return model.eval().requires_grad_(False)


def _check_weights(
    model: ChineseClip, weights: dict[str, torch.Tensor], source: Path
) -> dict[str, torch.Tensor]:
    """The weights that the model needs, or a CheckpointError that names what does not fit."""
    import torch

    wanted = model.state_dict()
    # Counts of training batches: BatchNorm has them, embedding does not use them.
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    problems = [f"no tensor {name}" for name in wanted.keys() - weights.keys() - counters]
    problems += [
        f"a tensor {name} that this architecture has not" for name in weights.keys() - wanted.keys()
    ]
    checked = {name: torch.zeros((), dtype=torch.long) for name in counters}
    for name in wanted.keys() & weights.keys() - counters:
        expected, found = tuple(wanted[name].shape), tuple(weights[name].shape)
        if expected != found:
            problems.append(f"{name} of shape {list(found)}, expected {list(expected)}")
        elif not _is_dense_float(weights[name]):
            problems.append(f"{name} of type {weights[name].dtype}, expected dense floats")
        else:
            half = weights[name].dtype == torch.float16
            checked[name] = weights[name] if half else weights[name].float()
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise CheckpointError(
            f"{source}: the checkpoint has {'; '.join(sorted(problems)[:5])}{more}"
        )
    return checked


def _check_finite(weights: dict[str, torch.Tensor], source: Path) -> None:
    """Raise a CheckpointError that names a tensor with NaN or infinite values.

    fp32 would give rows of NaN; quantised, they would look like any others.
    """
    for name, tensor in sorted(weights.items()):
        if not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        if not all(bool(extreme.isfinite()) for extreme in tensor.aminmax()):
            raise CheckpointError(f"{source}: {name} has NaN or infinite values as {tensor.dtype}")


def _is_dense_float(tensor: torch.Tensor) -> bool:
    import torch

    return (
        tensor.is_floating_point()
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
    )


def _metadata(checkpoint: Checkpoint, model: ChineseClip, source: Path) -> dict[str, Any]:
    import torch

    from . import _core

    config = checkpoint.config
    tokenizer = _core.Tokenizer(checkpoint.vocabulary)
    if tokenizer.largest_id >= config.text.vocab_size:
        raise CheckpointError(
            f"{source}: the vocabulary has ids up to {tokenizer.largest_id}, the word embedding "
            f"only {config.text.vocab_size} rows"
        )
    logit_scale = model.logit_scale.float()
    temperature = float(1.0 / logit_scale.exp())
    if not 0 < temperature < math.inf:
        raise CheckpointError(f"{source}: logit_scale {float(logit_scale):g} gives no temperature")
    stored = {value.dtype for value in model.state_dict().values() if value.is_floating_point()}
    return {
        "format": FORMAT_VERSION,
        "cnclip": __version__,
        "torch": torch.__version__,
        "embed_dim": config.embed_dim,
        "image_resolution": config.vision.resolution,
        "context_length": min(CONTEXT_LENGTH, config.text.max_positions),
        "temperature": temperature,
        "mean": CLIP_MEAN,
        "std": CLIP_STD,
        "parameters": sum(value.numel() for value in model.parameters()),
        "stored_dtypes": sorted(str(dtype).removeprefix("torch.") for dtype in stored),
        "architecture": dataclasses.asdict(config),
    }


def _serialize(model: ChineseClip, metadata: dict[str, Any], vocabulary: bytes) -> bytes:
    """The archive's content. libtorch does not write the file: it ends the process if it cannot."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit.* is deprecated", DeprecationWarning)
        scripted = torch.jit.script(model)
        operators = torch.jit.export_opnames(scripted)  # type: ignore[no-untyped-call]
        metadata = metadata | {"operators": [n for n in operators if n.startswith("cnclip::")]}
        buffer: bytes = scripted.save_to_buffer(  # type: ignore[no-untyped-call]
            _extra_files={METADATA: json.dumps(metadata, indent=1), VOCABULARY: vocabulary}
        )
    return buffer
