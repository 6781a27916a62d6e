"""Sizes of the published models, by their names in cn_clip. Needs no torch."""

from __future__ import annotations

from ..modeling.config import ClipConfig, TextConfig, VisionConfig

# Entries of the vocabulary that all of them share, BERT's Chinese one.
VOCABULARY_SIZE = 21128


def _roberta(layers: int, width: int) -> TextConfig:
    return TextConfig(VOCABULARY_SIZE, width, layers, width // 64, 4 * width, 512, 2)


TEXT_SIZES: dict[str, TextConfig] = {
    "RBT3-chinese": _roberta(3, 768),
    "RoBERTa-wwm-ext-base-chinese": _roberta(12, 768),
    "RoBERTa-wwm-ext-large-chinese": _roberta(24, 1024),
}

# Columns of the embeddings, and the tower. No ViT-B-32 was published; it is trained from scratch.
VISION_SIZES: dict[str, tuple[int, VisionConfig]] = {
    "RN50": (1024, VisionConfig(224, (3, 4, 6, 3), 64, None)),
    "ViT-B-16": (512, VisionConfig(224, 12, 768, 16)),
    "ViT-B-32": (512, VisionConfig(224, 12, 768, 32)),
    "ViT-L-14": (768, VisionConfig(224, 24, 1024, 14)),
    "ViT-L-14-336": (768, VisionConfig(336, 24, 1024, 14)),
    "ViT-H-14": (1024, VisionConfig(224, 32, 1280, 14, head_width=80)),
}

# The text tower of each published model, by the model's name, which is that of its vision tower.
TEXT_TOWERS = {
    "RN50": "RBT3-chinese",
    "ViT-B-16": "RoBERTa-wwm-ext-base-chinese",
    "ViT-L-14": "RoBERTa-wwm-ext-base-chinese",
    "ViT-L-14-336": "RoBERTa-wwm-ext-base-chinese",
    "ViT-H-14": "RoBERTa-wwm-ext-large-chinese",
}

PUBLISHED_SIZES: dict[str, ClipConfig] = {
    name: ClipConfig(*VISION_SIZES[name], TEXT_SIZES[text]) for name, text in TEXT_TOWERS.items()
}
