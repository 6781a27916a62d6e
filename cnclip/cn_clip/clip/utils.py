"""Models by their names, as `cn_clip.clip.utils` opens them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ...checkpoints.checkpoint import Checkpoint, Hints, Weights, check_tensors, empty_model
from ...checkpoints.cn_clip import plain_names
from ...checkpoints.modelscope import used_tensors
from ...checkpoints.published_sizes import (
    PUBLISHED_SIZES,
    TEXT_SIZES,
    TEXT_TOWERS,
    VISION_SIZES,
)
from ...checkpoints.tensors import by_name, read_pickle
from ...checkpoints.vocabulary import PUBLISHED_VOCABULARY
from ...errors import (
    CheckpointError,
    DeviceError,
    InputTypeError,
    InvalidInputError,
    ModelNotFoundError,
)
from ...hub_file import download_file
from ...modeling.clip import half_precision_names
from ...modeling.cn_clip import CLIP
from ...modeling.config import ClipConfig, TextConfig, VisionConfig
from ...modeling.resnet import ModifiedResNet
from ...models import read_checkpoint
from .inputs import ImageTransform, _tokenizer, image_transform, tokenize
from .model import convert_weights, restore_model

__all__ = [
    "_MODELS",
    "_MODEL_INFO",
    "available_models",
    "create_model",
    "image_transform",
    "load",
    "load_from_name",
    "tokenize",
]

# The repository of each published model on the hubs, and the name of its file.
_MODELS = {
    "ViT-B-16": ("chinese-clip-vit-base-patch16", "clip_cn_vit-b-16.pt"),
    "ViT-L-14": ("chinese-clip-vit-large-patch14", "clip_cn_vit-l-14.pt"),
    "ViT-L-14-336": ("chinese-clip-vit-large-patch14-336px", "clip_cn_vit-l-14-336.pt"),
    "ViT-H-14": ("chinese-clip-vit-huge-patch14", "clip_cn_vit-h-14.pt"),
    "RN50": ("chinese-clip-rn50", "clip_cn_rn50.pt"),
}
_OWNERS = {"huggingface": "OFA-Sys", "modelscope": "AI-ModelScope"}
_MODEL_INFO = {
    name: {
        "struct": f"{name}@{TEXT_TOWERS[name]}",
        "input_resolution": PUBLISHED_SIZES[name].vision.resolution,
    }
    for name in _MODELS
}
_DOWNLOAD_ROOT = "~/.cache/clip"


def available_models() -> list[str]:
    """The names of the published models."""
    return list(_MODELS)


def load_from_name(
    name: str | os.PathLike[str],
    device: str | torch.device | None = None,
    download_root: str | os.PathLike[str] | None = None,
    vision_model_name: str | None = None,
    text_model_name: str | None = None,
    input_resolution: int | None = None,
    use_modelscope: bool = False,
) -> tuple[CLIP, ImageTransform]:
    """Open a model and its preprocessing of images.

    Args:
        name: One of `available_models()`; or a `.pt` file, or any other model that
            `cnclip.pipeline` opens.
        device: Where the model computes. On a CPU its weights are float32; elsewhere those of
            linear and convolution layers and of BERT are float16, as cn_clip's. By default a GPU if
            there is one, else the CPU.
        download_root: The folder of the published models' files, `clip_cn_*.pt`. A file that it
            lacks is downloaded to it. By default `~/.cache/clip`.
        vision_model_name: The vision tower's name, such as `'ViT-B-16'`. A `.pt` file's tensors
            have its sizes, so it is only compared with them, if it is given.
        text_model_name: The text tower's name, such as `'RoBERTa-wwm-ext-base-chinese'`, likewise.
        input_resolution: Pixels per side of the input, likewise.
        use_modelscope: Download from ModelScope, not from Hugging Face.

    Returns:
        The model in evaluation mode, and the preprocessing, which takes a Pillow image and returns
        a float32 tensor [3, r, r].

    Raises:
        ModelNotFoundError: there is no such model.
        HubError, MissingExtraError: it cannot be downloaded.
        CheckpointError: it is damaged, has other sizes than those of the names, or a vocabulary
            other than the published models'.
        InvalidInputError: a name of a tower is unknown.
        DeviceError: there is no such device.
    """
    target = _device(device)
    place = _find(name, download_root, use_modelscope)
    vision, text = _tower_sizes(vision_model_name, text_model_name)
    hints = Hints(
        None if vision is None else vision[1].head_width,
        None if text is None else text.width // text.heads,
    )
    checkpoint = read_checkpoint(place, hints=hints)
    if checkpoint.vocabulary.splitlines() != PUBLISHED_VOCABULARY.read_bytes().splitlines():
        raise CheckpointError(
            "its vocabulary is not the published models', which `tokenize` uses; open it with "
            "cnclip.pipeline",
            file=place,
        )
    _check_sizes(checkpoint.config, vision, text, input_resolution, place)
    model = _model_of(checkpoint)
    if target.type != "cpu":
        convert_weights(model)
    resolution = checkpoint.config.vision.resolution
    transform = ImageTransform(resolution, checkpoint.mean, checkpoint.std)
    return model.eval().to(target), transform


def _device(device: str | torch.device | None) -> torch.device:
    """The device of an argument.

    Raises:
        DeviceError: this machine does not have it.
        InvalidInputError, InputTypeError: it is not a device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(device, str | torch.device):
        reason = f"expected str or torch.device, got {type(device).__name__}"
        raise InputTypeError(reason, item="device")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        reason = f"expected 'cpu', 'cuda' or 'cuda:N', got {device!r:.60}"
        raise InvalidInputError(reason, item="device") from error
    count = torch.cuda.device_count()
    if found.type == "cuda" and (found.index or 0) >= count:
        raise DeviceError(f"no device {str(found)!r}: torch finds {count} GPUs here; pass 'cpu'")
    return found


def _find(
    name: str | os.PathLike[str],
    download_root: str | os.PathLike[str] | None,
    use_modelscope: bool,
) -> str | Path:
    """The file of a published model, downloaded if necessary; other names unchanged."""
    if not isinstance(name, str) or name not in _MODELS:
        try:
            return name if isinstance(name, str) else Path(name)
        except TypeError as error:
            reason = f"expected a name or path, got {type(name).__name__}"
            raise InputTypeError(reason, item="name") from error
    repository, file = _MODELS[name]
    root = Path(download_root or _DOWNLOAD_ROOT).expanduser()
    path = root / file
    if path.exists():
        return path
    hub = "modelscope" if use_modelscope else "huggingface"
    return download_file(hub, f"{_OWNERS[hub]}/{repository}", file, root)


def _tower_sizes(vision: str | None, text: str | None) -> Any:
    """The sizes of towers by their names; None for those that are not given.

    Raises:
        InvalidInputError: there is no tower of this name.
    """
    sizes: list[Any] = []
    for argument, name, known in (
        ("vision_model_name", vision, VISION_SIZES),
        ("text_model_name", text, TEXT_SIZES),
    ):
        name = None if name is None else name.replace("/", "-")
        if name is not None and name not in known:
            reason = f"expected one of {', '.join(known)}, got {name!r:.60}"
            raise InvalidInputError(reason, item=argument)
        sizes.append(None if name is None else known[name])
    return sizes


def _check_sizes(
    config: ClipConfig,
    vision: tuple[int, VisionConfig] | None,
    text: TextConfig | None,
    resolution: int | None,
    place: str | Path,
) -> None:
    """Compare the sizes of a model with those that the caller named; None is not compared.

    Raises:
        CheckpointError: they differ; names the first size that does.
    """
    embed_dim, tower = vision or (None, None)
    for part, found, expected in (
        ("embeddings'", {"columns": config.embed_dim}, {"columns": embed_dim}),
        ("vision tower's", asdict(config.vision), {} if tower is None else asdict(tower)),
        ("text tower's", asdict(config.text), {} if text is None else asdict(text)),
        ("vision tower's", asdict(config.vision), {"resolution": resolution}),
    ):
        for size, value in expected.items():
            if value is not None and found[size] != value:
                reason = f"its {part} {size} is {found[size]}, expected {value} by the arguments"
                raise CheckpointError(reason, file=place)


def _model_of(checkpoint: Checkpoint) -> CLIP:
    """The model with a checkpoint's weights in float32, rounded where cn_clip rounds them.

    The weights are removed from the checkpoint one by one, so that memory holds few of them twice.
    """
    with torch.device("meta"):
        model = CLIP(checkpoint.config)
    halves = half_precision_names(model) if checkpoint.rounds_to_half else set()
    weights: Weights = {}
    for name, wanted in model.state_dict().items():
        value = checkpoint.weights.pop(name, None)
        if value is None:  # BatchNorm's count of batches
            weights[name] = torch.zeros(wanted.shape, dtype=wanted.dtype)
            continue
        value = value.detach().half() if name in halves else value.detach()
        weights[name] = value.to(wanted.dtype, copy=True).contiguous()
    model.load_state_dict(weights, assign=True)
    return _completed(model)


def _completed(model: CLIP) -> CLIP:
    model.tokenizer = _tokenizer
    if isinstance(model.visual, ModifiedResNet):  # 1.4 times as fast on a CPU
        model.visual.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def create_model(model_name: str, checkpoint: Mapping[str, Any] | None = None) -> CLIP:
    """A model of named towers on the CPU, with float16 weights where cn_clip has them.

    Args:
        model_name: Two names with `@` between them: `'ViT-B-16@RoBERTa-wwm-ext-base-chinese'`.
        checkpoint: The content of a `.pt` file: a dict with the weights in `state_dict`, or the
            weights. By default they are random.

    Returns:
        The model, in training mode, as every new torch.nn.Module.

    Raises:
        InvalidInputError: a name is unknown.
        CheckpointError: the weights are of another model; names a tensor.
    """
    vision_name, _, text_name = model_name.partition("@")
    (embed_dim, vision), text = _tower_sizes(vision_name, text_name)
    model = CLIP(ClipConfig(embed_dim, vision, text))
    if checkpoint is None:
        model.initialize()
    else:
        model.load_weights(_weights_of(checkpoint, model))
    convert_weights(model)
    return _completed(model)


def _weights_of(checkpoint: Mapping[str, Any], model: CLIP) -> Weights:
    content = checkpoint.get("state_dict", checkpoint)
    try:
        named = by_name(None, ((name, value) for name, value in content.items()))
        plain = {name.removeprefix("module."): value for name, value in named.items()}
        weights = used_tensors(dict(plain_names(None, plain)))
        wanted = empty_model(model.config).state_dict()
        counters = [name for name in wanted if name.endswith("num_batches_tracked")]
        shapes = {name: value.shape for name, value in wanted.items()}
        check_tensors(weights, shapes, None, optional=counters)
    except CheckpointError as error:
        raise error.at(item="checkpoint") from error
    return weights


def load(
    model: CLIP,
    device: str | torch.device | None = None,
    clip_path: str | os.PathLike[str] | None = None,
    bert_path: str | os.PathLike[str] | None = None,
    use_flash_attention: bool = False,
) -> CLIP:
    """Start a model from the weights of a CLIP and of a BERT, as for training from them.

    Args:
        model: The model, such as `create_model` returns it.
        device: As for `load_from_name`.
        clip_path: A file of weights, of which `visual.*` and `logit_scale` are used; a position
            embedding of another size is resampled.
        bert_path: A file of weights, of which `bert.*` is used.
        use_flash_attention: Ignored: torch chooses its fastest attention.

    Returns:
        The model, in evaluation mode.

    Raises:
        ModelNotFoundError: there is no such file.
        CheckpointError: it is damaged, or its tensors have other shapes than the model's.
        DeviceError: there is no such device.
    """
    target = _device(device)
    weights = [None if path is None else _read_weights(path) for path in (clip_path, bert_path)]
    restore_model(model, *weights)
    if target.type == "cpu":
        model.float()
    return model.to(target)


def _read_weights(path: str | os.PathLike[str]) -> Weights:
    file = Path(path).expanduser()
    if not file.is_file():
        raise ModelNotFoundError("there is no such file", file=file)
    weights = read_pickle(file)
    return {name.removeprefix("module."): value for name, value in weights.items()}
