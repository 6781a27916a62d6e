"""Decides by a model's configuration whether it is Chinese-CLIP, or a model for ModelScope."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .._text import first_line
from ..checkpoints.files import CONFIG, PIPELINE_CONFIG
from ..errors import CheckpointError
from ..hub import fetch_settings, parse_hub_name
from ..models import BUNDLED_MODELS, find_model

# The type of Chinese-CLIP in `configuration.json`, and in Hugging Face's `config.json`.
MODEL_TYPE, HUGGINGFACE_TYPE = "clip-multi-modal-embedding", "chinese_clip"
DEFAULT_MODEL = "damo/multi-modal_clip-vit-base-patch16_zh"
MAX_SETTINGS = 16 << 20


def own_name(model: str | Path) -> str:
    """A model's name as cnclip takes it: programs of ModelScope name models of its hub.

    Args:
        model: A path, or a name on ModelScope's hub.
    """
    name = str(model)
    if name in BUNDLED_MODELS or Path(name).expanduser().exists():
        return name
    return name if parse_hub_name(f"ms:{name}") is None else f"ms:{name}"


def foreign_type(
    model: str | Path, revision: str | None = None, *, local_files_only: bool = False
) -> str | None:
    """The type of a model that is not Chinese-CLIP; None for Chinese-CLIP.

    It is also None if the model's files do not say: opening it reports what they lack.

    Args:
        model: A path, or a name on ModelScope's hub, from which only the configuration is fetched.
        revision: Branch, tag or commit on the hub.
        local_files_only: Use only files that were downloaded before.
    """
    name = own_name(model)
    hub_name = parse_hub_name(name) if name.startswith("ms:") else None
    if hub_name is not None:
        folder = fetch_settings(
            *hub_name, (PIPELINE_CONFIG, CONFIG), revision, local_files_only=local_files_only
        )
    else:
        folder = find_model(name)
    found = type_of(folder)
    return None if found in (MODEL_TYPE, HUGGINGFACE_TYPE) else found


def type_of(folder: Path) -> str | None:
    """The type of a model by its configuration; None if there is none."""
    settings = _settings(folder / PIPELINE_CONFIG)
    model = settings.get("model")
    if isinstance(model, dict):
        kind = model.get("type", model.get("model_type"))
        if isinstance(kind, str):
            return kind
    kind = _settings(folder / CONFIG).get("model_type")
    if isinstance(kind, str):
        return kind
    return str(settings["task"]) if settings.get("plugins") and "task" in settings else None


def _settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        is_small = path.stat().st_size <= MAX_SETTINGS
        settings = json.loads(path.read_bytes()) if is_small else None
    except OSError as error:
        raise CheckpointError(f"cannot be read: {first_line(error)}", file=path) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"is damaged ({type(error).__name__})", file=path) from error
    if not is_small:
        raise CheckpointError(f"has more than {MAX_SETTINGS} bytes", file=path)
    return settings if isinstance(settings, dict) else {}
