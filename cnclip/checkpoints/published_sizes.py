"""Sizes of the published models, by their names in cn_clip. Needs no torch."""

from __future__ import annotations

from ..modeling.config import ClipConfig, TextConfig, VisionConfig

# Entries of the vocabulary that all of them share, BERT's Chinese one.
VOCABULARY_SIZE = 21128


def _roberta(layers: int, width: int) -> TextConfig:
    return TextConfig(VOCABULARY_SIZE, width, layers, width // 64, 4 * width, 512, 2)


_BASE, _LARGE, _RBT3 = _roberta(12, 768), _roberta(24, 1024), _roberta(3, 768)

PUBLISHED_SIZES: dict[str, ClipConfig] = {
    "RN50": ClipConfig(1024, VisionConfig(224, (3, 4, 6, 3), 64, None), _RBT3),
    "ViT-B-16": ClipConfig(512, VisionConfig(224, 12, 768, 16), _BASE),
    "ViT-L-14": ClipConfig(768, VisionConfig(224, 24, 1024, 14), _BASE),
    "ViT-L-14-336": ClipConfig(768, VisionConfig(336, 24, 1024, 14), _BASE),
    "ViT-H-14": ClipConfig(1024, VisionConfig(224, 32, 1280, 14, head_width=80), _LARGE),
}
