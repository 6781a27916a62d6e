"""Chroma's `EmbeddingFunction`, of documents and images.

Importing this module registers the function under the name `cnclip`, so that a client opens
collections that were created with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .._checks import requires_extra
from ..errors import InputTypeError, InvalidInputError
from .named_model import ModelInput, NamedModel

with requires_extra("chroma", "chromadb"):
    from chromadb.api.types import Embeddable, EmbeddingFunction, Space
    from chromadb.utils.embedding_functions import register_embedding_function

_KEYS = ("model", "device", "precision", "num_threads")
# Vectors of other models or precisions must not be mixed.
_FIXED = ("model", "precision")


@register_embedding_function
class CnclipEmbeddingFunction(EmbeddingFunction[Embeddable]):
    """Embeds documents and images, which Chroma's data loader opens as arrays.

    A collection keeps the model's name, and the options, in its configuration.

    Attributes:
        model: The model.
    """

    def __init__(self, model: ModelInput, **options: Any) -> None:
        """Take a model.

        Args:
            model: An open pipeline; or a model as `pipeline` opens it, opened when it is first
                used.
            options: For a model that is not open: `device`, `precision` and `num_threads`, as for
                `pipeline`.
        """
        self.model = NamedModel(model, **options)

    def __call__(self, input: Embeddable) -> list[NDArray[np.float32]]:
        """Embed documents, images, or both.

        Args:
            input: Strings, and uint8 arrays [height, width, 3]; also without the last dimension
                (gray), or with 4 values there (transparent).

        Returns:
            n vectors, float32 [d], in the order of the input.

        Raises:
            InputTypeError: an item is neither; names it.
            CnclipError: as `pipeline.forward`.
        """
        items = list(input)
        texts = [n for n, item in enumerate(items) if isinstance(item, str)]
        images = [n for n, item in enumerate(items) if not isinstance(item, str)]
        rows = np.empty((len(items), self.model.dim), np.float32)
        if texts:
            rows[texts] = self.model.embed_texts([str(items[n]) for n in texts])
        if images:
            opened = [_image(items[n], f"input[{n}]") for n in images]
            rows[images] = self.model.embed_images(opened)
        return list(rows)

    @staticmethod
    def name() -> str:
        """The name of the function in a collection's configuration."""
        return "cnclip"

    def default_space(self) -> Space:
        """The distance of new collections."""
        return "cosine"

    def supported_spaces(self) -> list[Space]:
        """The distances that a collection may have: vectors are of unit length, all rank alike."""
        return ["cosine", "l2", "ip"]

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> CnclipEmbeddingFunction:
        """The function of a collection's configuration. The model is not opened yet."""
        CnclipEmbeddingFunction.validate_config(config)
        options = {key: config[key] for key in _KEYS[1:] if key in config}
        return CnclipEmbeddingFunction(config["model"], **options)

    def get_config(self) -> dict[str, Any]:
        """The configuration: the model's name or path, and the options."""
        model = self.model
        return dict(
            zip(_KEYS, (model.name, model.device, model.precision, model.num_threads), strict=True)
        )

    def validate_config_update(
        self, old_config: dict[str, Any], new_config: dict[str, Any]
    ) -> None:
        """Refuse another model or precision.

        Raises:
            InvalidInputError: one of them would change; names it.
        """
        for key in _FIXED:
            if key in new_config and new_config[key] != old_config.get(key):
                reason = (
                    f"the collection has vectors of {old_config.get(key)!r}, not of "
                    f"{new_config[key]!r}; create another collection"
                )
                raise InvalidInputError(reason, item=key)

    @staticmethod
    def validate_config(config: dict[str, Any]) -> None:
        """Check a collection's configuration.

        Raises:
            InvalidInputError: a key is missing or unknown; names it.
        """
        if unknown := [key for key in config if key not in _KEYS]:
            reason = f"expected {', '.join(_KEYS)}, got {', '.join(unknown)}"
            raise InvalidInputError(reason, item="config")
        if not isinstance(config.get("model"), str):
            raise InvalidInputError("expected the name of a model", item="config: model")


def _image(value: Any, name: str) -> Any:
    """An image of Chroma, uint8 [h, w], [h, w, 3] or [h, w, 4], as the pipeline takes it."""
    array = np.asarray(value)
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        found = f"{array.dtype} {list(array.shape)}"
        raise InputTypeError(f"expected str or a uint8 array of an image, got {found}", item=name)
    if array.ndim == 3 and array.shape[2] == 3:
        return array
    return Image.fromarray(array.squeeze(-1) if array.shape[2:] == (1,) else array)
