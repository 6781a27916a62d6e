"""The figures that Chinese-CLIP's authors published, for comparison."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from importlib import resources
from typing import Any

from ..archive import ArchiveInfo
from ..checkpoints.published_sizes import PUBLISHED_SIZES

# Names of known models in the authors' tables.
_TABLE_NAMES = {"ViT-B-16": "ViT-B/16", "ViT-L-14": "ViT-L/14", "ViT-L-14-336": "ViT-L/14@336px"}
_TABLE_NAMES |= {"ViT-H-14": "ViT-H/14", "RN50": "RN50"}


def published_results(data_set: str, split: str, info: ArchiveInfo) -> dict[str, Any] | None:
    """Return the published figures for a data set and a model of these sizes.

    Returns:
        {"data_set", "model", "text_to_image": {"zero_shot": {"R@1": ...}, ...}, ...}, with the
        split in the name of `data_set`; None if no figures were published.
    """
    model = model_of_size(info)
    if model is None:
        return None
    text = resources.files(__package__).joinpath("published_results.json").read_text("utf-8")
    for title, models in json.loads(text)["retrieval"].items():
        name, _, its_split = title.partition(" (")
        if _plain(data_set).startswith(_plain(name)) and its_split.rstrip(")") == split:
            figures = models.get(_TABLE_NAMES[model])
            known = {"data_set": title, "model": _TABLE_NAMES[model]}
            return None if figures is None else known | figures
    return None


def model_of_size(info: ArchiveInfo) -> str | None:
    """Return the name of the published model that has the same sizes, or None."""
    sizes = _sizes(info.metadata["architecture"])
    known = {_sizes(asdict(config)): name for name, config in PUBLISHED_SIZES.items()}
    return known.get(sizes)


def _sizes(architecture: dict[str, Any]) -> str:
    """The sizes that distinguish the published models, as JSON."""
    vision, text = architecture["vision"], architecture["text"]
    sizes = [vision[name] for name in ("layers", "width", "resolution")]
    sizes += [text[name] for name in ("layers", "width")]
    return json.dumps([architecture["embed_dim"], *sizes])


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
