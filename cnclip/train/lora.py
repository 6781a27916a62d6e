"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) through peft."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import MissingExtraError
from .options import TrainOptions
from .towers import TrainableClip

# Every linear layer of both towers.
TARGETS = (
    *("in_proj", "out_proj", "c_fc", "c_proj"),
    *("q_proj", "k_proj", "v_proj"),
    *("query", "key", "value", "dense"),
)
_ADAPTER = "default"


def add_adapters(model: TrainableClip, options: TrainOptions) -> None:
    """Put adapters beside the linear layers; they and the logit scale alone are trained.

    Raises:
        MissingExtraError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise MissingExtraError("lora", "peft") from error
    pattern = "|".join(TARGETS)
    tower = "bert" if options.freeze_vision else "(visual|bert)"
    config = LoraConfig(
        r=options.lora_rank,
        lora_alpha=options.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=options.lora_dropout,
        target_modules=rf"{tower}\..*\.({pattern})",
    )
    model.requires_grad_(False)
    inject_adapter_in_model(config, model, adapter_name=_ADAPTER)
    model.logit_scale.requires_grad_(True)


def merged_weights(model: TrainableClip) -> dict[str, torch.Tensor]:
    """The weights with the adapters' updates in them, under the names without adapters."""
    from peft.tuners.lora import LoraLayer

    weights = {
        name.replace(".base_layer.", "."): weight
        for name, weight in model.state_dict().items()
        if ".lora_" not in name
    }
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            layer: Any = module
            update = layer.get_delta_weight(_ADAPTER)
            weights[f"{name}.weight"] = weights[f"{name}.weight"] + update
    return weights
