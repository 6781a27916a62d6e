"""The model of cn_clip, and the conversions of its weights that programs call."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...modeling.clip import half_precision_names
from ...modeling.cn_clip import CLIP
from ...modeling.vit import VisionTransformer, checkpoint_name

__all__ = [
    "CLIP",
    "convert_models_to_fp32",
    "convert_state_dict",
    "convert_weights",
    "resize_pos_embed",
    "restore_model",
]

_LINEAR = ("query", "key", "value")


def convert_weights(model: CLIP) -> None:
    """Convert linear and convolution layers, the projections and BERT to float16, in place."""
    names = half_precision_names(model)
    for name, parameter in model.named_parameters():
        if checkpoint_name(name) in names:
            parameter.data = parameter.data.half()


def convert_models_to_fp32(model: nn.Module) -> None:
    """Convert all parameters and their gradients to float32, in place."""
    for parameter in model.parameters():
        parameter.data = parameter.data.float()
        if parameter.grad is not None:
            parameter.grad.data = parameter.grad.data.float()


def convert_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Exchange the names of weights with flash attention and those without it.

    Args:
        state_dict: The weights of a model, under either kind of names.

    Returns:
        The same weights under the other kind; those of BERT's queries, keys and values are joined
        or separated.
    """
    if any(".Wqkv." in name for name in state_dict):
        return dict(_without_flash_attention(state_dict))
    return dict(_with_flash_attention(state_dict))


def _with_flash_attention(weights: Mapping[str, Tensor]) -> Iterable[tuple[str, Tensor]]:
    for name, value in weights.items():
        layer, part, kind = [*name.rsplit(".", 2), "", ""][:3]
        if layer.endswith("attention.self") and part in _LINEAR:
            if part == _LINEAR[0]:
                parts = [weights[f"{layer}.{one}.{kind}"] for one in _LINEAR]
                yield f"{layer}.Wqkv.{kind}", torch.cat(parts)
        else:
            name = name.replace("attention.output.dense", "attention.self.out_proj")
            yield name.replace("attn.in_proj_", "attn.Wqkv."), value


def _without_flash_attention(weights: Mapping[str, Tensor]) -> Iterable[tuple[str, Tensor]]:
    for name, value in weights.items():
        layer, part, kind = [*name.rsplit(".", 2), "", ""][:3]
        if layer.endswith("attention.self") and part == "Wqkv":
            for one, rows in zip(_LINEAR, value.chunk(len(_LINEAR)), strict=True):
                yield f"{layer}.{one}.{kind}", rows
        else:
            name = name.replace("attention.self.out_proj", "attention.output.dense")
            yield re.sub(r"\.attn\.Wqkv\.(weight|bias)$", r".attn.in_proj_\1", name), value


def resize_pos_embed(state_dict: dict[str, Tensor], model: CLIP) -> None:
    """Resample a ViT's position embedding to the grid of a model, in place and bicubically.

    Args:
        state_dict: Weights; those of other towers are left as they are.
        model: The model that will load them.
    """
    name = "visual.positional_embedding"
    stored, tower = state_dict.get(name), model.visual
    if stored is None or not isinstance(tower, VisionTransformer):
        return
    rows = len(tower.positional_embedding)
    if len(stored) == rows:
        return
    old, new = round((len(stored) - 1) ** 0.5), round((rows - 1) ** 0.5)
    grid = stored[1:].float().reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=True)
    resampled = grid.permute(0, 2, 3, 1).flatten(0, 2).to(stored.dtype)
    state_dict[name] = torch.cat([stored[:1], resampled])


def restore_model(
    model: CLIP,
    clip_state_dict: Mapping[str, Tensor] | None,
    bert_state_dict: Mapping[str, Tensor] | None,
) -> CLIP:
    """Take the vision tower from one set of weights and the text tower from another.

    Args:
        model: The model, whose weights are rounded to float16 and then replaced.
        clip_state_dict: Weights with `visual.*` and `logit_scale`; others are not used.
        bert_state_dict: Weights with `bert.*`; others and the pooler's are not used.

    Returns:
        The model, in evaluation mode.
    """
    merged = {
        name: value
        for name, value in (clip_state_dict or {}).items()
        if name.startswith("visual.") or name == "logit_scale"
    } | {
        name: value
        for name, value in (bert_state_dict or {}).items()
        if name.startswith("bert.") and not name.startswith("bert.pooler.")
    }
    convert_weights(model)
    resize_pos_embed(merged, model)
    model.load_state_dict(merged, strict=False)
    return model.eval()
