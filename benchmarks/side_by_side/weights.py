"""A ModelScope model directory as transformers' ChineseCLIPModel and as ONNX files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ChineseCLIPConfig, ChineseCLIPModel

# Names in a vision layer: published checkpoints to transformers. in_proj is also split in three.
LAYER_NAMES = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
NAMES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "logit_scale": "logit_scale",
}
TRANSPOSED = {
    "visual.proj": "visual_projection.weight",
    "text_projection": "text_projection.weight",
}


class ImageTower(nn.Module):
    """Pixels to unit rows."""

    def __init__(self, model: ChineseCLIPModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output
        return nn.functional.normalize(self.model.visual_projection(pooled), dim=-1)


class TextTower(nn.Module):
    """Ids to unit rows."""

    def __init__(self, model: ChineseCLIPModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        mask = ids.ne(0).long()
        states = self.model.text_model(input_ids=ids, attention_mask=mask).last_hidden_state
        return nn.functional.normalize(self.model.text_projection(states[:, 0]), dim=-1)


def read_chinese_clip(directory: Path) -> ChineseCLIPModel:
    """Return transformers' model with the directory's weights; only ViT is supported."""
    vision = json.loads((directory / "vision_model_config.json").read_text())
    text = json.loads((directory / "text_model_config.json").read_text())
    model = ChineseCLIPModel(ChineseCLIPConfig(**configuration(vision, text)))
    content = torch.load(directory / "pytorch_model.bin", map_location="cpu", weights_only=True)
    source = {
        name.removeprefix("module."): value.float()
        for name, value in content.get("state_dict", content).items()
    }
    renamed = rename(source)
    missing, unexpected = model.load_state_dict(renamed, strict=False)
    missing = [name for name in missing if not name.endswith(("position_ids", "token_type_ids"))]
    if missing or unexpected:
        raise ValueError(f"missing weights {missing[:3]}, unexpected weights {unexpected[:3]}")
    return model.eval()


def configuration(vision: dict[str, Any], text: dict[str, Any]) -> dict[str, Any]:
    width = vision["vision_width"]
    text_names = ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"]
    text_names += ["hidden_act", "max_position_embeddings", "type_vocab_size"]
    return {
        "projection_dim": vision["embed_dim"],
        "vision_config": {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": vision["vision_layers"],
            "num_attention_heads": width // vision.get("vision_head_width", 64),
            "image_size": vision["image_resolution"],
            "patch_size": vision["vision_patch_size"],
            "projection_dim": vision["embed_dim"],
            "hidden_act": "quick_gelu",
        },
        "text_config": {
            "vocab_size": text["vocab_size"],
            "pad_token_id": 0,
            **{name: text[f"text_{name}"] for name in text_names},
        },
    }


def rename(source: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights from published checkpoints to transformers."""
    target = {}
    for name, value in source.items():
        if name in NAMES:
            target[NAMES[name]] = value
        elif name in TRANSPOSED:
            target[TRANSPOSED[name]] = value.T.contiguous()
        elif name.startswith("bert.") and not name.startswith("bert.pooler."):
            target[name.replace("bert.", "text_model.", 1)] = value
        elif name.startswith("visual.transformer.resblocks."):
            target |= rename_layer(name, value)
    return target


def rename_layer(name: str, value: Tensor) -> dict[str, Tensor]:
    number, _, rest = name.removeprefix("visual.transformer.resblocks.").partition(".")
    prefix = f"vision_model.encoder.layers.{number}"
    if rest.startswith("attn.in_proj_"):
        kind = rest.removeprefix("attn.in_proj_")
        parts = zip(("q", "k", "v"), value.chunk(3), strict=True)
        return {f"{prefix}.self_attn.{part}_proj.{kind}": rows.clone() for part, rows in parts}
    module, _, kind = rest.rpartition(".")
    return {f"{prefix}.{LAYER_NAMES[module]}.{kind}": value}


def export_onnx(model: ChineseCLIPModel, data: Path) -> None:
    """Write image.onnx and text.onnx, for any batch size and length."""
    vision = model.config.vision_config
    pixels = torch.rand(2, 3, vision.image_size, vision.image_size)
    ids = torch.randint(1, 100, (2, 12))
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=512)
    for name, tower, example, sizes in (
        ("image", ImageTower(model), pixels, {0: batch}),
        ("text", TextTower(model), ids, {0: batch, 1: length}),
    ):
        program = torch.onnx.export(
            tower.eval(),
            (example,),
            dynamo=True,
            dynamic_shapes=(sizes,),
            input_names=["input"],
            output_names=["rows"],
        )
        assert program is not None
        program.save(data / f"{name}.onnx")
