"""QA-CLIP's checkpoints (TencentARC): Chinese-CLIP's architecture in files of two layouts.

Small random checkpoints with the names, wrapping and settings of the published files:
`QA-CLIP-base.pt`, `QA-CLIP-large.pt` and `QA-CLIP-RN50.pt` for QA-CLIP's code, which is cn_clip's,
and the directories of `TencentARC/QA-CLIP-ViT-B-16` and `-ViT-L-14` as transformers 4 wrote them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cnclip import cn_clip
from cnclip.checkpoints.huggingface import _views
from cnclip.hub import parse_hub_name
from cnclip.modeling.config import CLIP_MEAN, CLIP_STD, ClipConfig
from tests.support.families import WORDS, check_same, embed, random_weights, smaller

FILES = {"ViT-B-16": "QA-CLIP-base.pt", "ViT-L-14": "QA-CLIP-large.pt", "RN50": "QA-CLIP-RN50.pt"}
DIRECTORIES = {"ViT-B-16": "QA-CLIP-ViT-B-16", "ViT-L-14": "QA-CLIP-ViT-L-14"}


def write_file(folder: Path, name: str) -> Path:
    config = smaller(name)
    weights = {f"module.{key}": value for key, value in random_weights(config).items()}
    pooler = {"weight": torch.zeros(config.text.width, config.text.width)}
    pooler["bias"] = torch.zeros(config.text.width)
    weights |= {f"module.bert.pooler.dense.{kind}": value for kind, value in pooler.items()}
    path = folder / FILES[name]
    torch.save({"epoch": 6, "step": 97650, "name": "qaclip", "state_dict": weights}, path)
    return path


def generation_settings() -> dict[str, Any]:
    """Settings that transformers 4 wrote for each part of a model, and that change nothing."""
    return {
        "_name_or_path": "",
        "add_cross_attention": False,
        "architectures": None,
        "chunk_size_feed_forward": 0,
        "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
        "is_decoder": False,
        "max_length": 20,
        "output_attentions": False,
        "pruned_heads": {},
        "tie_word_embeddings": True,
        "torch_dtype": None,
        "torchscript": False,
        "transformers_version": "4.28.1",
        "typical_p": 1.0,
        "use_bfloat16": False,
    }


def settings_of(config: ClipConfig) -> dict[str, Any]:
    vision, text = config.vision, config.text
    return {
        "_commit_hash": None,
        "architectures": ["ChineseCLIPModel"],
        "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592,
        "model_type": "chinese_clip",
        "projection_dim": config.embed_dim,
        "text_config": generation_settings()
        | {
            "attention_probs_dropout_prob": 0.1,
            "bos_token_id": 0,
            "directionality": "bidi",
            "eos_token_id": 2,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "hidden_size": text.width,
            "initializer_factor": 1.0,
            "initializer_range": 0.02,
            "intermediate_size": text.intermediate_width,
            "layer_norm_eps": 1e-12,
            "max_position_embeddings": text.max_positions,
            "model_type": "chinese_clip_text_model",
            "num_attention_heads": text.heads,
            "num_hidden_layers": text.layers,
            "output_past": True,
            "pad_token_id": 0,
            "pooler_fc_size": 768,
            "pooler_type": "first_token_transform",
            "position_embedding_type": "absolute",
            "type_vocab_size": text.type_vocab_size,
            "use_cache": True,
            "vocab_size": text.vocab_size,
        },
        "torch_dtype": "float32",
        "transformers_version": None,
        "vision_config": generation_settings()
        | {
            "attention_dropout": 0.0,
            "dropout": 0.0,
            "hidden_act": "quick_gelu",
            "hidden_size": vision.width,
            "image_size": vision.resolution,
            "initializer_factor": 1.0,
            "initializer_range": 0.02,
            "intermediate_size": 4 * vision.width,
            "layer_norm_eps": 1e-05,
            "model_type": "chinese_clip_vision_model",
            "num_attention_heads": vision.heads,
            "num_channels": 3,
            "num_hidden_layers": vision.layers,
            "patch_size": vision.patch_size,
            "projection_dim": config.embed_dim,
        },
    }


def write_directory(folder: Path, name: str) -> Path:
    config = smaller(name)
    directory = folder / DIRECTORIES[name]
    directory.mkdir()
    weights = {key: value.contiguous() for key, value in _views(random_weights(config)).items()}
    rows = weights["vision_model.embeddings.position_embedding.weight"].shape[0]
    # Buffers that transformers stored up to 4.30.
    weights["vision_model.embeddings.position_ids"] = torch.arange(rows)[None]
    weights["text_model.embeddings.position_ids"] = torch.arange(config.text.max_positions)[None]
    torch.save(weights, directory / "pytorch_model.bin")
    preprocessor = {
        "do_center_crop": False,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "ChineseCLIPFeatureExtractor",
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
        "resample": 3,
        "size": config.vision.resolution,
    }
    for file, content in (
        ("config.json", settings_of(config)),
        ("preprocessor_config.json", preprocessor),
    ):
        (directory / file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (directory / "vocab.txt").write_bytes(WORDS.read_bytes())
    (directory / "README.md").write_text("QA-CLIP", encoding="utf-8")
    return directory


@pytest.mark.parametrize("name", FILES)
def test_both_layouts(name: str, image: Image.Image, tmp_path: Path) -> None:
    path = write_file(tmp_path, name)
    expected = embed(path, image)
    if name in DIRECTORIES:
        check_same(write_directory(tmp_path, name), image, expected)
    model, preprocess = cn_clip.load_from_name(path, "cpu")
    with torch.no_grad():
        rows = model.encode_image(preprocess(image)[None])
    unit = (rows / rows.norm()).numpy()
    np.testing.assert_allclose(unit, expected["img_embedding"], rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", DIRECTORIES)
def test_transformers_computes_the_same(name: str, image: Image.Image, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    directory = write_directory(tmp_path, name)
    model = transformers.ChineseCLIPModel.from_pretrained(directory).eval()
    pixels = cn_clip.image_transform(smaller(name).vision.resolution)(image)[None]
    with torch.no_grad():
        row = model.get_image_features(pixel_values=pixels)
    row = torch.nn.functional.normalize(getattr(row, "pooler_output", row), dim=-1)
    ours = embed(directory, image)["img_embedding"]
    np.testing.assert_allclose(ours, row.numpy(), rtol=0, atol=2e-6)


def test_hub_ids() -> None:
    for directory in DIRECTORIES.values():
        name = f"TencentARC/{directory}"
        assert parse_hub_name(name) == ("huggingface", name)
